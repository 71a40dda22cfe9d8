"""Reading the kernel's small text files: what is not there or cannot be read is None, empty, and never an error."""

from __future__ import annotations

from pathlib import Path


def matching(root: Path, pattern: str) -> list[Path]:
    """Files below ``root`` that match a pattern, sorted."""
    try:
        return sorted(root.glob(pattern))
    except OSError:
        return []


def text_of(path: Path) -> str | None:
    """The whole text."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def first_line(path: Path) -> str | None:
    """The first line, without the NUL that device-tree strings end in."""
    lines = (text_of(path) or "").splitlines()
    return lines[0].strip("\0 \t") if lines else None


def number_in(text: str | None) -> float | None:
    """The number that a text consists of."""
    try:
        return float(text or "")
    except ValueError:
        return None


def memory_info(root: Path) -> dict[str, int]:
    """/proc/meminfo in bytes."""
    values = {}
    for line in (text_of(root / "proc/meminfo") or "").splitlines():
        key, _, value = line.partition(":")
        number = number_in(value.removesuffix(" kB"))
        if number is not None:
            values[key] = int(number) * 1024
    return values

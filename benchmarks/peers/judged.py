"""A judged file and what it was made of: kept, so that a comparison of hours goes on where it was interrupted."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import msgspec

import edgepress
from edgepress.artifact.files import write_atomically
from edgepress.benchmarks.peers.llama_tools import Divergence
from edgepress.benchmarks.peers.measured import Run

# What decides about a file's bytes; other rooms only look at it.
_ROOMS = ("artifact", "compress", "export", "pipeline", "runtime")
_MODULES = ("errors.py", "recipe.py")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One quantized file: who made it and how, what it cost, and what it lost."""

    format: str
    maker: str
    method: str
    path: Path
    file_bytes: int
    types: dict[str, int]
    embedding: str
    making: list[Run]
    divergence: Divergence

    @property
    def wall_s(self) -> float:
        """Seconds to make the file from the student, calibration included."""
        return sum(run.wall_s for run in self.making)

    @property
    def cpu_s(self) -> float:
        """Processor seconds for the same, user and system."""
        return sum(run.cpu_s for run in self.making)

    @property
    def peak_rss_bytes(self) -> int:
        """The most that any process held on the way."""
        return max(run.peak_rss_bytes for run in self.making)


def digest(facts: Any) -> str:
    """sha256 over plain data."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def code_digest() -> str:
    """sha256 over the sources that make a file: another version's result is not taken over."""
    total = hashlib.sha256()
    package = Path(edgepress.__path__[0])
    for module in _MODULES:
        total.update((package / module).read_bytes())
    for room in _ROOMS:
        for folder, _, files in sorted(os.walk(package / room, followlinks=True)):
            for file in sorted(name for name in files if name.endswith(".py")):
                total.update(file.encode() + (Path(folder) / file).read_bytes())
    return total.hexdigest()


def write_entry(path: Path, key: str, entry: Entry) -> None:
    """Keep an entry; ``key`` stands for all that it was made of."""
    kept = {"key": key, "entry": msgspec.to_builtins(entry, enc_hook=str)}
    write_atomically(path, json.dumps(kept, indent=2) + "\n")


def read_entry(path: Path, key: str) -> Entry | None:
    """The entry that was kept under this key, if its file is still there."""
    if not path.is_file():
        return None
    kept = json.loads(path.read_text(encoding="utf-8"))
    if kept["key"] != key:
        return None
    try:
        entry = msgspec.convert(kept["entry"], Entry, dec_hook=lambda kind, value: kind(value))
    except msgspec.ValidationError:  # written when an entry had other fields
        return None
    same = entry.path.is_file() and entry.path.stat().st_size == entry.file_bytes
    return entry if same else None

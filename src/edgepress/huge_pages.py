"""Training in huge pages, from the first allocation on.

A training step frees and takes hundreds of megabytes. glibc gives large blocks back to the system at once and gets them
again page by page, 4 KiB each: a third of the time on a CPU. Kept, and in pages of 2 MiB, the same step takes 0.6 to
0.7 of the time (docs/LOG.md, "Memory in small pages"). glibc reads this from the environment when a process starts and
never again, so a command that trains is started again, in the same process, before it has loaded anything.

What the user has set stays. A process that measures a file is started without it, as users' own programs are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_VARIABLE = "GLIBC_TUNABLES"
_STARTED_AGAIN = "EDGEPRESS_STARTED_AGAIN"  # glibc drops its own variable where it does not trust the environment
_TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"
_MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_WITH_A_VALUE = ("-X", "-W", "--check-hash-based-pycs")  # of Python's own options
_FIRST_GLIBC = (2, 35)  # knows glibc.malloc.hugetlb


def in_huge_pages() -> None:
    """Start the command again with huge pages, where it was started as a command and has none; once at the most.

    Where it cannot be started again it goes on as it is.
    """
    arguments, again = as_command(sys.orig_argv), os.environ.pop(_STARTED_AGAIN, None)
    if again or not arguments or not sys.executable or _VARIABLE in os.environ or not are_there(_libc(), _mode()):
        return
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed by the caller
            stream.flush()
    with suppress(OSError):
        environment = os.environ | {_VARIABLE: _TUNABLES, _STARTED_AGAIN: "1"}
        os.execve(sys.executable, [sys.executable, *arguments], environment)


def without_huge_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what this module has put there."""
    return {name: value for name, value in environment.items() if (name, value) != (_VARIABLE, _TUNABLES)}


def as_command(started: Sequence[str]) -> list[str]:
    """The arguments of Python that start this command again; none where edgepress is a part of another program.

    Args:
        started: the interpreter and its arguments, as in ``sys.orig_argv``.
    """
    arguments = list(started[1:])
    place = 0
    while place < len(arguments) and arguments[place].startswith("-") and arguments[place] not in ("-m", "-c", "-"):
        place += 2 if arguments[place] in _WITH_A_VALUE else 1
    program = arguments[place : place + 2]
    is_ours = program == ["-m", "edgepress"] or Path(*program[:1]).name == "edgepress"
    return arguments if is_ours else []


def are_there(libc: str, mode: str) -> bool:
    """Whether glibc can ask the system for huge pages, and gets them.

    Args:
        libc: name and version, such as ``glibc 2.36``.
        mode: of the kernel's transparent huge pages, with the one that holds in brackets.
    """
    name, _, version = libc.partition(" ")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    return name == "glibc" and numbers >= _FIRST_GLIBC and ("[madvise]" in mode or "[always]" in mode)


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):  # another C library
        return ""


def _mode() -> str:
    try:
        return _MODE.read_text(encoding="ascii")
    except OSError:
        return ""

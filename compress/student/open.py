"""From what a user calls a student to a :class:`~edgepress.compress.student.student.Student`.

In this order: a directory or a file that exists; a built-in name; a hub id. A path that does not exist is never sent
to the hub when it looks like a path.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from edgepress.artifact.checkpoint import is_checkpoint
from edgepress.artifact.files import home_path
from edgepress.compress.student.built_in import BUILT_INS, built_in_file
from edgepress.compress.student.checkpoint import CheckpointStudent
from edgepress.compress.student.gguf_file import GgufFile
from edgepress.compress.student.hf_directory import PICKLE_SUFFIXES, HfDirectory
from edgepress.compress.student.hub import fetch_from_hub, is_hub_id
from edgepress.compress.student.student import Student
from edgepress.errors import InputError


def open_student(name: str) -> Student:
    """Open a student and check it whole; reads headers, but no weights.

    Args:
        name: a Hugging Face directory, a ``.gguf`` file, an edgepress run or checkpoint directory, a built-in name or
            a hub id (``org/name``).

    Raises:
        InputError: it does not exist, is damaged or not supported; one line that says what and where.
        MissingExtraError: a library of the ``compress`` extra is not installed.
    """
    if not name.strip():
        raise InputError("no student given; name a directory, a .gguf file, a hub id or a built-in student")
    try:
        path = home_path(name)
        if path.is_dir():
            return _open_directory(path)
        if path.is_file():
            return _open_file(path)
        if name in BUILT_INS:
            return GgufFile(built_in_file(name), name=name, source=f"built-in {name} ({BUILT_INS[name].requirement})")
        if is_hub_id(name) and not path.parent.is_dir():
            return HfDirectory(fetch_from_hub(name), name=path.name, source=name)
        raise InputError(_not_found(name, path))
    except OSError as error:
        raise InputError(f"{name[:200]}: cannot be read ({error.strerror or error})") from error


def _open_directory(path: Path) -> Student:
    for directory in (path, path / "checkpoint"):
        if is_checkpoint(directory):
            return CheckpointStudent(directory)
    return HfDirectory(path)


def _open_file(path: Path) -> Student:
    if path.suffix == ".safetensors":
        raise InputError(f"{path}: a file of weights alone; give the directory that has config.json beside it")
    if path.suffix in PICKLE_SUFFIXES:
        raise InputError(f"{path}: a pickle checkpoint, which can run code and is never loaded; convert to safetensors")
    return GgufFile(path)


def _not_found(name: str, path: Path) -> str:
    around = path.parent.iterdir() if path.parent.is_dir() else ()
    siblings = {entry.name: str(entry) for entry in around if entry.is_dir() or entry.suffix == ".gguf"}
    choices = siblings | {built_in: built_in for built_in in BUILT_INS}
    close = [choices[match] for match in difflib.get_close_matches(path.name, choices, n=3)]
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return (
        f"{name}: no such file or directory, no built-in student ({', '.join(BUILT_INS)}), "
        f"and not a hub id (org/name){hint}"
    )

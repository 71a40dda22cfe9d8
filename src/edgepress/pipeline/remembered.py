"""Measurements on disk: a JSON file each, reused while the file measured and the question asked stay the same.

Both are in a key, in a hidden file beside it. The key is written last, so that a measurement without one is taken anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from edgepress.artifact.files import sha256_file, write_atomically
from edgepress.runtime.locate import ModelFile

Record = TypeVar("Record")


def remember(path: Path, key: str, kind: type[Record], measure: Callable[[], Record]) -> Record:
    """A measurement from its file while its key is the same, else measured and written."""
    keys = path.with_name(f".{path.stem}.key")
    if path.is_file() and keys.is_file() and keys.read_text() == key:
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except msgspec.DecodeError:
            pass
    keys.unlink(missing_ok=True)
    record = measure()
    write_atomically(path, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
    write_atomically(keys, key)
    return record


def forget_other_measurements(folder: Path, wanted: set[str]) -> None:
    """Remove the measurements, and their keys, whose names are not wanted."""
    for path in folder.glob("*.json"):
        if path.stem not in wanted:
            forget(path)


def forget(path: Path) -> None:
    """Remove a measurement and its key, where there is one."""
    path.unlink(missing_ok=True)
    path.with_name(f".{path.stem}.key").unlink(missing_ok=True)


def model_identity(model: ModelFile) -> str:
    """Digest of a model's own files."""
    files = [model.path] if model.path.is_file() else sorted(path for path in model.path.iterdir() if path.is_file())
    return hashlib.sha256("\n".join(f"{file.name} {sha256_file(file)}" for file in files).encode()).hexdigest()

"""Files on disk: hashes, atomic directories, and what to say when the disk is full."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgepress.errors import InputError

_LAST_FILE = "config.json"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def home_path(name: str) -> Path:
    """A path whose ``~`` is a home directory; as it is written, where there is no such home."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def tree_bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a directory."""
    if path.is_file():
        return path.stat().st_size
    return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())


@contextmanager
def atomic_directory(final: Path) -> Iterator[Path]:
    """Yield an empty working directory that becomes ``final`` when the block ends well, and vanishes otherwise.

    A directory already at ``final`` is replaced. What a killed run left behind is removed on the next call.

    Raises:
        InputError: the disk is full.
    """
    working = final.with_name(f".{final.name}.partial")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(working, ignore_errors=True)
        working.mkdir()
        yield working
        _sync(working)
        if final.exists():
            shutil.rmtree(final)
        working.replace(final)
    except Exception as error:
        if is_disk_full(error):
            raise InputError(f"{final}: the disk is full; free some space and run the same command again") from error
        raise
    finally:
        shutil.rmtree(working, ignore_errors=True)


@contextmanager
def sole_writer(directory: Path, lock: Path) -> Iterator[None]:
    """Keep other processes out of an existing directory while the block runs; ``lock`` is a file for that.

    Raises:
        InputError: another run is writing there.
    """
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"{directory}: another edgepress run is writing here; wait for it to end") from error
        yield


def replace_model(made: Path, out: Path, earlier: Iterable[str]) -> list[str]:
    """Put a model's files into a directory, one by one; their names.

    ``config.json`` goes first and comes last, so that what opens as a model is one, and no mixture of two.

    Args:
        made: the folder they are in.
        out: the directory, which may hold an earlier model.
        earlier: names of that one's files; those that the new one does not have are removed.
    """
    names = sorted((path.name for path in made.iterdir()), key=lambda name: (name == _LAST_FILE, name))
    (out / _LAST_FILE).unlink(missing_ok=True)
    for name in {Path(name).name for name in earlier} - set(names):
        (out / name).unlink(missing_ok=True)
    for name in names:
        shutil.copyfile(made / name, out / f".{name}.partial")
        (out / f".{name}.partial").replace(out / name)
    return names


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a small file under a temporary name and rename it."""
    data = content.encode() if isinstance(content, str) else content
    working = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        working.write_bytes(data)
        working.replace(path)
    except OSError as error:
        working.unlink(missing_ok=True)
        if is_disk_full(error):
            raise InputError(f"{path}: the disk is full; free some space and run the same command again") from error
        raise


def is_disk_full(error: Exception) -> bool:
    """Whether an error says that the disk, or the user's share of it, is full.

    Two libraries say so in words only: safetensors passes the system's number on in its message, numpy's ``tofile``
    tells how much it could write.
    """
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    text = str(error)
    return any(f"(os error {code})" in text for code in _FULL) or _SHORT_WRITE.fullmatch(text) is not None


def _sync(directory: Path) -> None:
    """Flush every file to the disk, so that a delayed "no space" error comes before the rename and not after."""
    for entry in directory.rglob("*"):
        if entry.is_file():
            with entry.open("rb") as stream:
                os.fsync(stream.fileno())

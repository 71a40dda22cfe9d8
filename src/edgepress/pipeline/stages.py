"""Stages: results in the output directory, content-addressed by their inputs, safe against kill -9 at any moment.

A stage writes into a working directory beside its final name, which then takes that name in one rename; only after
that a record is written with the stage's key and the sha256 of its files. A stage whose record matches its key, and
whose files match the record, is not run again.

A directory belongs to the command that first wrote there, from its beginning on: what a killed run has left to go on
from is as safe from other commands as what a finished one has made.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edgepress import __version__
from edgepress.artifact.files import atomic_directory, sole_writer, write_atomically
from edgepress.artifact.manifest import FileEntry, list_files
from edgepress.errors import InputError
from edgepress.pipeline.owner import LOCK, RECORDS, Command, check_owner, mark
from edgepress.progress import say


class StageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a finished stage left."""

    key: str
    files: tuple[FileEntry, ...]


def stage_key(*inputs: object) -> str:
    """Hex sha256 over the inputs' representations and the version of edgepress."""
    return hashlib.sha256(repr((__version__, inputs)).encode()).hexdigest()


class Output:
    """An output directory and the records of its stages."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def check(self, command: Command) -> None:
        """Refuse a directory that a command may not write into.

        Raises:
            InputError: the path is a file, holds other things, or what another command wrote or has begun.
        """
        records = self.root / RECORDS
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"{self.root}: exists and is not a directory")
        if self.root.is_dir() and any(self.root.iterdir()) and not records.is_dir():
            raise InputError(f"{self.root}: is not empty and was not written by edgepress; choose another directory")
        check_owner(self.root, command)

    @contextmanager
    def claim(self, command: Command) -> Iterator[None]:
        """Make the directory, refuse another's, and keep other runs out while the block runs.

        Raises:
            InputError: as :meth:`check`, or another run is writing to it.
        """
        self.check(command)
        records = self.root / RECORDS
        try:
            records.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.root}: cannot be created ({error.strerror})") from error
        with sole_writer(self.root, records / LOCK):
            self.check(command)  # another command may have come before
            mark(self.root, command)
            yield

    def run(
        self,
        name: str,
        key: str,
        make: Callable[[Path], None],
        derived: tuple[str, ...] = (),
        added: tuple[str, ...] = (),
    ) -> Path:
        """The directory of a stage, made by ``make`` unless it is there already.

        The ``derived`` stages, which were made from an earlier result, are removed when it is made anew. Files whose
        paths begin with an entry of ``added`` belong to other commands: they stay as long as the stage's own do.
        """
        final = self.root / name
        if self.is_done(name, key, added):
            say(f"{name}: up to date")
            return final
        for stale in (*derived, name):
            self.forget(stale)
        with atomic_directory(final) as working:
            make(working)
        record = StageRecord(key=key, files=list_files(self.root, [name], added))
        write_atomically(self._record(name), msgspec.json.encode(record))
        return final

    def is_done(self, name: str, key: str, added: tuple[str, ...] = ()) -> bool:
        """Whether a stage's record and files are those of ``key``."""
        try:
            record = msgspec.json.decode(self._record(name).read_bytes(), type=StageRecord)
        except (OSError, msgspec.DecodeError, msgspec.ValidationError):
            return False
        return record.key == key and record.files == list_files(self.root, [name], added)

    def forget(self, name: str) -> None:
        """Remove a stage's record and files."""
        self._record(name).unlink(missing_ok=True)
        shutil.rmtree(self.root / name, ignore_errors=True)

    def training(self, key: str) -> Path:
        """Where the state of a training lies until its stage is done."""
        return self.root / RECORDS / f"training-{key[:16]}"

    def forget_trainings(self) -> None:
        """Remove all such states."""
        for left in (self.root / RECORDS).glob("training-*"):
            shutil.rmtree(left, ignore_errors=True)

    def _record(self, name: str) -> Path:
        return self.root / RECORDS / f"{name.replace('/', '.')}.json"

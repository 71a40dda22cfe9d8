"""The files of a trained classifier: made out of sight, put in their places one by one, recognised when there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec

from edgepress.artifact.files import atomic_directory, replace_model, sha256_file, write_atomically
from edgepress.artifact.manifest import FileEntry
from edgepress.benchmarks.label_record import CLASSIFIER_FILE, COST_FILE, ClassifierRecord

_DONE, _MADE = "classifier.json", "classifier"
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "chat_template.jinja",
)


class _Done(msgspec.Struct, frozen=True):
    key: str
    files: tuple[FileEntry, ...]


def write_classifier(opened: Any, key: str, out: Path, record: ClassifierRecord) -> None:
    """Write a student's files into ``out``, ``config.json`` last, and then the note that they are done.

    Args:
        opened: the student, a ``ClassifierStudent``.
        key: of the job.
        out: the output directory.
        record: of the training.
    """
    hidden = out / ".edgepress"
    with atomic_directory(hidden / _MADE) as working:
        opened.save(working)
        for name in _TOKENIZER_FILES:
            if (opened.tokenizer_dir / name).is_file():
                shutil.copyfile(opened.tokenizer_dir / name, working / name)
        (working / CLASSIFIER_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
    names = replace_model(hidden / _MADE, out, (entry.path for entry in _earlier(out)))
    entries = tuple(
        FileEntry(path=name, bytes=(out / name).stat().st_size, sha256=sha256_file(out / name)) for name in names
    )
    write_atomically(hidden / _DONE, msgspec.json.encode(_Done(key, entries)))


def _earlier(out: Path) -> tuple[FileEntry, ...]:
    """The files of the classifier that was made here last, if any."""
    try:
        return msgspec.json.decode((out / ".edgepress" / _DONE).read_bytes(), type=_Done).files
    except (OSError, msgspec.DecodeError):
        return ()


def finished(out: Path, key: str) -> ClassifierRecord | None:
    """The record of a classifier that is there, whole, and was made by the same job."""
    try:
        done = msgspec.json.decode((out / ".edgepress" / _DONE).read_bytes(), type=_Done)
        whole = all(sha256_file(out / entry.path) == entry.sha256 for entry in done.files)
        if done.key == key and whole and (out / COST_FILE).is_file():
            return msgspec.json.decode((out / CLASSIFIER_FILE).read_bytes(), type=ClassifierRecord)
    except (OSError, msgspec.DecodeError):
        pass
    return None


def tidy(out: Path) -> None:
    """Remove what a finished classifier has no more use for, of runs with other settings as well."""
    hidden = out / ".edgepress"
    for left in (*hidden.glob("training-*"), hidden / _MADE):
        shutil.rmtree(left, ignore_errors=True)
    for left in (*out.glob(".*.partial"), *(out / COST_FILE).parent.glob(".*.partial")):
        left.unlink()

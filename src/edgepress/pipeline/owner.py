"""Whose an output directory is: a mark that a command leaves before anything else, or else what lies there.

What lies there tells of finished outputs; a training that was killed leaves nothing without its mark that would.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from edgepress.artifact.encoder_layout import ENCODER_FILE
from edgepress.artifact.files import write_atomically
from edgepress.benchmarks.gad_record import GAD_RECORD_FILE
from edgepress.benchmarks.label_record import CLASSIFIER_FILE
from edgepress.benchmarks.training_record import RECORD_FILE
from edgepress.errors import InputError

# Commands whose outputs are alike share a name: run stands for compress, export for edge-llm.
Command = Literal["run", "export", "encoder", "distill", "gad", "classifier"]
RECORDS, LOCK = ".edgepress", "lock"
_MARK = "command"
_NAMES: dict[Command, str] = {
    "run": "'edgepress compress' or 'run'",
    "export": "'edgepress export' or 'edge-llm'",
    "encoder": "'edgepress encoder'",
    "distill": "'edgepress distill'",
    "gad": "'edgepress gad'",
    "classifier": "'edgepress classifier'",
}
# What tells the command where there is no mark; the first that is there counts.
_LEAVES: tuple[tuple[str, Command], ...] = (
    (RECORD_FILE, "distill"),
    (GAD_RECORD_FILE, "gad"),
    (CLASSIFIER_FILE, "classifier"),
    ("checkpoint", "run"),
    ("trimmed", "run"),
    ("pruned-*", "run"),
    ("gguf", "export"),
    ("onnx", "export"),
    ("edge-llm", "export"),
    (f"tensorrt/{ENCODER_FILE}", "encoder"),
    ("tensorrt", "export"),
)


def check_owner(root: Path, command: Command) -> None:
    """Refuse a directory in which another command has written.

    Raises:
        InputError: names the other.
    """
    owner = owner_of(root)
    if owner not in (None, command):
        raise InputError(f"{root}: holds what {_NAMES[owner]} wrote; choose another directory")


def owner_of(root: Path) -> Command | None:
    """The command that wrote into a directory; none where nothing lies but its mark, or nothing that tells."""
    if not _written(root):
        return None
    marked = _marked(root)
    return marked or next((owner for left, owner in _LEAVES if any(root.glob(left))), None)


def mark(root: Path, command: Command) -> None:
    """Say that a directory is a command's."""
    if _marked(root) != command:
        write_atomically(root / RECORDS / _MARK, command)


def _marked(root: Path) -> Command | None:
    """What the mark says; a damaged one says nothing."""
    try:
        said = (root / RECORDS / _MARK).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    known: tuple[Command, ...] = get_args(Command)
    return next((command for command in known if command == said), None)


def _written(root: Path) -> bool:
    if not (root / RECORDS).is_dir():
        return False
    left = {path.name for path in (*root.iterdir(), *(root / RECORDS).iterdir())}
    return bool(left - {RECORDS, LOCK, _MARK})

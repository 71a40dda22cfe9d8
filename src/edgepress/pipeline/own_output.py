"""Whose an output directory is: no command writes over what it reads, or over what another command wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edgepress.benchmarks.gad_record import GAD_RECORD_FILE
from edgepress.benchmarks.label_record import CLASSIFIER_FILE
from edgepress.benchmarks.training_record import RECORD_FILE
from edgepress.errors import InputError

Command = Literal["run", "distill", "gad", "classifier"]
_LEAVES: dict[Command, str] = {
    "run": "checkpoint",
    "distill": RECORD_FILE,
    "gad": GAD_RECORD_FILE,
    "classifier": CLASSIFIER_FILE,
}


def check_own_output(command: Command, out: Path, *sources: str | None) -> None:
    """Refuse an output directory that holds a model which is read, or what another command left.

    Args:
        command: that is to write there; ``run`` stands for ``compress`` as well.
        out: need not exist.
        sources: where the models that are read came from; what is no path is passed over.

    Raises:
        InputError: names what is there.
    """
    for source in sources:
        if source and Path(source).exists() and _is_within(Path(source), out):
            raise InputError(f"{out}: holds {source}, which is read; choose another directory for what comes of it")
    for other, left in _LEAVES.items():
        if other != command and (out / left).exists():
            raise InputError(f"{out}: holds what 'edgepress {other}' wrote; choose another directory")


def _is_within(path: Path, directory: Path) -> bool:
    resolved = path.resolve()
    return directory.resolve() in (resolved, *resolved.parents)

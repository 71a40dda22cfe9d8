"""No command writes over what it reads, or over what another command wrote: said before any work."""

from __future__ import annotations

from pathlib import Path

from edgepress.artifact.files import home_path
from edgepress.errors import InputError
from edgepress.pipeline.owner import Command
from edgepress.pipeline.stages import Output


def check_own_output(command: Command, out: Path, *sources: str | None) -> None:
    """Refuse an output directory that holds a model which is read, or what another command wrote.

    Args:
        command: that is to write there.
        out: need not exist.
        sources: where the models that are read came from; what is no path is passed over.

    Raises:
        InputError: names what is there.
    """
    for source in sources:
        path = home_path(source or "")
        if source and out.is_dir() and path.exists() and _is_within(path, out):
            raise InputError(f"{out}: holds {source}, which is read; choose another directory for what comes of it")
    Output(out).check(command)


def _is_within(path: Path, directory: Path) -> bool:
    resolved = path.resolve()
    return directory.resolve() in (resolved, *resolved.parents)

"""Progress on stderr: a bar with time left on a terminal, silence elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[[int], None]


def say(message: str) -> None:
    """One line of information for a person, on stderr so that stdout stays one document."""
    Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False).print(message)


@contextmanager
def progress(label: str, total: int) -> Iterator[Advance]:
    """Show a bar for ``total`` units of work while the block runs; call the yielded function to advance it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)
    with bar:
        task = bar.add_task(label, total=total)
        yield lambda units: bar.advance(task, units)

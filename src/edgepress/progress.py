"""Progress on stderr: a bar with time left on a terminal, silence elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Advance = Callable[[int], None]
_silent: ContextVar[bool] = ContextVar("silent", default=False)


@contextmanager
def silence(wanted: bool) -> Iterator[None]:
    """Show and say nothing while the block runs, if wanted: of several processes at one work, one speaks."""
    before = _silent.set(wanted)
    try:
        yield
    finally:
        _silent.reset(before)


def say(message: str) -> None:
    """One line of information for a person, on stderr so that stdout stays one document."""
    if _silent.get():
        return
    Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False).print(message)


@contextmanager
def progress(label: str, total: int, *, done: int = 0, unit: str = "") -> Iterator[Advance]:
    """Show a bar for ``total`` units of work while the block runs; call the yielded function to advance it.

    Args:
        label: what is being done.
        total: units of work.
        done: of them, before the block.
        unit: their name, for a rate beside the bar; without one no rate is shown.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        *((_Rate(unit),) if unit else ()),
    )
    hidden = _silent.get() or not sys.stderr.isatty()
    bar = Progress(*columns, console=Console(stderr=True), disable=hidden, transient=True)
    with bar:
        task = bar.add_task(label, total=total, completed=done)
        yield lambda units: bar.advance(task, units)


class _Rate(ProgressColumn):
    """Units of work in a second, lately."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} {self._unit}/s" if speed else "")

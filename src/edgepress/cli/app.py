"""The application object and what all commands share."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

import edgepress

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Distilled language models, compressed, exported and measured for small devices.",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Engine = Annotated[
    str | None,
    typer.Option("--engine", help="llama.cpp, onnxruntime, torch or tensorrt; default: the first that is there."),
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; default: the physical cores.")]


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    print(json_text(document))


def json_text(document: Any) -> str:
    """A JSON document, indented."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def _print_version(wanted: bool) -> None:
    if wanted:
        print(edgepress.__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Distilled language models, compressed, exported and measured for small devices."""


# The commands register themselves on import; the order here is the order of --help.
# isort: off
from edgepress.cli import make  # noqa: E402, F401
from edgepress.cli import answers  # noqa: E402, F401
from edgepress.cli import distill  # noqa: E402, F401
from edgepress.cli import slice  # noqa: E402, F401
from edgepress.cli import gad  # noqa: E402, F401
from edgepress.cli import label  # noqa: E402, F401
from edgepress.cli import encoder  # noqa: E402, F401
from edgepress.cli import edge_llm  # noqa: E402, F401
from edgepress.cli import engine  # noqa: E402, F401
from edgepress.cli import measure  # noqa: E402, F401
from edgepress.cli import talk  # noqa: E402, F401
from edgepress.cli import look  # noqa: E402, F401

"""Commands that look at things: show, steps, recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from edgepress.cli.app import Json, app, print_json
from edgepress.cli.tables import print_rows
from edgepress.profiles.recipes import RECIPE_NAMES, recipe_text
from edgepress.recipe import STEPS, load_recipe
from edgepress.recipe_order import step_name

_REQUIRED = "required"


@app.command()
def show(
    thing: Annotated[str, typer.Argument(metavar="X", help="A student, a run's output, a .gguf file or a recipe.")],
    json: Json = False,
) -> None:
    """Show what a student, an artifact or a recipe is."""
    from edgepress.pipeline.describe import describe

    description = describe(thing)
    if json:
        print_json(description)
    else:
        print_rows([(name, _plain(value)) for name, value in description.items()])


@app.command()
def steps(json: Json = False) -> None:
    """List the steps that a recipe may have, with their fields and defaults."""
    described = {step_name(step): _fields(step) for step in STEPS}
    if json:
        print_json(described)
        return
    for step in STEPS:
        print(f"{step_name(step)}: {' '.join((step.__doc__ or '').split(chr(10))[0].split())}")
        fields = described[step_name(step)].items()
        print_rows([(f"  {name}", value if value == _REQUIRED else f"default {value!r}") for name, value in fields])


@app.command()
def recipes(json: Json = False) -> None:
    """List the shipped recipes."""
    if json:
        print_json({name: msgspec.to_builtins(load_recipe(name)) for name in RECIPE_NAMES})
        return
    for name in RECIPE_NAMES:
        print(f"--- {name}\n{recipe_text(name)}")


def _fields(step: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.encode_name: msgspec.to_builtins(_default(field)) for field in msgspec.structs.fields(step)}


def _default(field: Any) -> Any:
    if field.required:
        return _REQUIRED
    return field.default if field.default is not msgspec.NODEFAULT else field.default_factory()


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {entry}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(str(entry) for entry in value)
    return str(Path(value)) if isinstance(value, Path) else str(value)

"""The shipped recipes, one YAML file each."""

from __future__ import annotations

from importlib.resources import files

RECIPE_NAMES = tuple(
    sorted(entry.name.removesuffix(".yaml") for entry in files(__name__).iterdir() if entry.name.endswith(".yaml"))
)


def recipe_text(name: str) -> str:
    """The YAML of a shipped recipe."""
    return (files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")

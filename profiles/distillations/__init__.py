"""The shipped settings of distillations, one YAML file each."""

from __future__ import annotations

from importlib.resources import files

SETTINGS_NAMES = tuple(
    sorted(entry.name.removesuffix(".yaml") for entry in files(__name__).iterdir() if entry.name.endswith(".yaml"))
)


def settings_text(name: str) -> str:
    """The YAML of shipped settings."""
    return (files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")

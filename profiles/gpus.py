"""NVIDIA GPUs by name and compute capability, from ``gpus.yaml``."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Literal

import msgspec
import yaml

from edgepress.errors import InputError


class Capability(msgspec.Struct, frozen=True, kw_only=True):
    """What TensorRT does on a compute capability. ``build``: ahead of time anywhere, on the board, or not at all."""

    build: Literal["ahead", "board", "none"]
    number_types: tuple[str, ...]


class _Table(msgspec.Struct, frozen=True, kw_only=True):
    capabilities: dict[str, Capability]
    gpus: dict[str, str]


def find_capability(name: str) -> tuple[str, Capability]:
    """A GPU's or a compute capability's name → ``smNN`` and what TensorRT does there.

    Raises:
        InputError: neither is known; lists what is.
    """
    table, wanted = _table(), name.strip().lower().replace(" ", "-").replace("_", "-")
    capability = table.gpus.get(wanted.removeprefix("geforce-"), wanted)
    if capability not in table.capabilities:
        known = ", ".join([*table.capabilities, *table.gpus])
        raise InputError(f"unknown target {name!r}; known targets: {known}")
    return capability, table.capabilities[capability]


def known_capabilities() -> frozenset[str]:
    """Compute capabilities that the table has."""
    return frozenset(_table().capabilities)


@cache
def _table() -> _Table:
    text = (files("edgepress.profiles") / "gpus.yaml").read_text(encoding="utf-8")
    return msgspec.convert(yaml.safe_load(text), _Table)

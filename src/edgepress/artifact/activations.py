"""activations.json: the static scales with which a checkpoint's linears round their inputs.

A linear listed here multiplies x̂ instead of x, with one s for the whole input:

    int8    x̂ = s · clip(round(x / s), -128, 127)
    fp8     x̂ = s · nearest of E4M3's values to x / s

Without the file, all activations stay floats. Scales are fp16 values, so that half-precision engines have the same.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from edgepress.artifact.plan import ActivationFormat

ACTIVATIONS_FILE = "activations.json"
LOWEST, HIGHEST = -128, 127


class Activations(msgspec.Struct, frozen=True):
    """What rounded inputs are stored as, and their static scales by the Hugging Face name of the linear's weight."""

    format: ActivationFormat = "float"
    scales: dict[str, float] = {}


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["int8", "fp8"]
    scales: dict[str, float]


def write_activations(directory: Path, scales: Mapping[str, float], format: ActivationFormat = "int8") -> None:
    """Write the scales of rounded inputs, by the Hugging Face name of the linear's weight."""
    document = {"format": format, "scales": dict(scales)}
    (directory / ACTIVATIONS_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def read_activations(directory: Path, names: Collection[str]) -> Activations:
    """What was written; no scales when all activations are floats.

    Raises:
        ValueError: the file is damaged, or names a tensor that is not among ``names``.
    """
    path = directory / ACTIVATIONS_FILE
    if not path.is_file():
        return Activations()
    stored = msgspec.json.decode(path.read_bytes(), type=_Stored)
    found = Activations(stored.format, stored.scales)
    for name, scale in found.scales.items():
        if name not in names:
            raise ValueError(f"{ACTIVATIONS_FILE} names {name}, which is no tensor of this model")
        if not (0 < scale < np.inf and float(np.float16(scale)) == scale):
            raise ValueError(f"{ACTIVATIONS_FILE} has a scale of {scale} for {name}; wanted a positive fp16 value")
    return found

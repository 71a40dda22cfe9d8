"""activations.json: the static scales with which a checkpoint's linears round their inputs.

A linear listed here multiplies x̂ = s · clip(round(x / s), -128, 127) instead of x, with one s for the whole input.
Without the file, all activations stay floats. Scales are fp16 values, so that half-precision engines have the same.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec
import numpy as np

from edgepress.artifact.plan import ActivationFormat

ACTIVATIONS_FILE = "activations.json"
LOWEST, HIGHEST = -128, 127


class _Activations(msgspec.Struct, frozen=True):
    format: ActivationFormat
    scales: dict[str, float]


def write_activations(directory: Path, scales: Mapping[str, float]) -> None:
    """Write the scales of int8 inputs, by the Hugging Face name of the linear's weight."""
    document = {"format": "int8", "scales": dict(scales)}
    (directory / ACTIVATIONS_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def read_activations(directory: Path, names: Collection[str]) -> dict[str, float]:
    """The scales by the weight's name; empty when all activations are floats.

    Raises:
        ValueError: the file is damaged, or names a tensor that is not among ``names``.
    """
    path = directory / ACTIVATIONS_FILE
    if not path.is_file():
        return {}
    scales = msgspec.json.decode(path.read_bytes(), type=_Activations).scales
    for name, scale in scales.items():
        if name not in names:
            raise ValueError(f"{ACTIVATIONS_FILE} names {name}, which is no tensor of this model")
        if not (0 < scale < np.inf and float(np.float16(scale)) == scale):
            raise ValueError(f"{ACTIVATIONS_FILE} has a scale of {scale} for {name}; wanted a positive fp16 value")
    return scales

"""A small recipe, pressed and exported into a directory whose stages can be told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from one_core import one_core  # noqa: F401

from edgepress.artifact.gguf_header import read_gguf_header
from edgepress.artifact.manifest import Manifest, read_manifest
from edgepress.compress.calibrate.config import Calibration
from edgepress.compress.prune.config import PruneStep
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.student.open import open_student
from edgepress.pipeline.run import compress
from edgepress.recipe import ExportTarget, Recipe

RECIPE = Recipe(
    calibration=Calibration(samples=2, length=16),
    compress=(QuantizeStep(solver="scale_search", format="q4_0", embedding="q8_0"),),
    evaluate=None,
    bench=None,
    samples=None,
)
PLAIN = QuantizeStep(solver="nearest", format="f16", fallback="f16")
BOTH: tuple[ExportTarget, ...] = ("gguf", "onnx")


def press(student: Path, out: Path, recipe: Recipe = RECIPE, targets: tuple[ExportTarget, ...] = BOTH) -> Manifest:
    compress(open_student(str(student)), recipe, out, targets)
    return read_manifest(out)


def step(**changes: Any) -> Recipe:
    changed = msgspec.structs.replace(RECIPE.quantize, **changes)
    return msgspec.structs.replace(RECIPE, compress=(changed,))


def pruning_recipe(*steps: PruneStep, quantize: QuantizeStep = PLAIN, **fields: Any) -> Recipe:
    return msgspec.structs.replace(RECIPE, compress=(*steps, quantize), **fields)


def architecture(out: Path) -> Any:
    """llama.cpp's name for what the GGUF file holds."""
    return read_gguf_header(out / "gguf" / "model.gguf").metadata["general.architecture"]


def made(out: Path, part: str) -> int:
    """Identity of a stage's directory: a stage that is made again is another one."""
    return (out / part).stat().st_ino


def identities(out: Path) -> dict[str, int]:
    return {part: made(out, part) for part in ("checkpoint", "gguf", "onnx")}

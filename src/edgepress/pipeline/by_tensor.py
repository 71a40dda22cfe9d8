"""Which tensors the loss comes from: ``measurements/tensors.json``, of the checkpoint that the files were made from."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.compress.search.records import Attribution
from edgepress.compress.student.student import Student
from edgepress.pipeline.measure import EvaluationText, evaluation_text
from edgepress.pipeline.press import unquantized
from edgepress.pipeline.prune import pruned_student
from edgepress.pipeline.remembered import remember
from edgepress.pipeline.stages import stage_key
from edgepress.recipe import Recipe

_TOKENS = 1024
_SEED = 0


def measure_tensors(student: Student, recipe: Recipe, out: Path) -> None:
    """Write ``out/measurements/tensors.json``, unless it is there or the recipe does not want it.

    Raises:
        InputError: the checkpoint is damaged.
    """
    if recipe.evaluate is None or not recipe.evaluate.tensors:
        return
    checkpoint = Checkpoint(out / "checkpoint")
    text = evaluation_text(student, recipe.evaluate)
    windows = some_windows(text)
    key = stage_key("tensors", 1, checkpoint.digest(), student.digest(), windows.shape, windows.tobytes())
    measured = partial(_measure, student, recipe, checkpoint, windows)
    remember(out / "measurements" / "tensors.json", key, Attribution, measured)


def _measure(student: Student, recipe: Recipe, checkpoint: Checkpoint, windows: NDArray[np.int32]) -> Attribution:
    from edgepress.compress.search.attribute import measure_attribution

    start = pruned_student(student, recipe, checkpoint.directory.parent)
    return measure_attribution(unquantized(start, recipe, checkpoint), checkpoint, windows, _SEED)


def some_windows(text: EvaluationText) -> NDArray[np.int32]:
    """Windows spread over an evaluation text, a part of the first where one holds more than is needed."""
    context = text.windows.shape[1]
    count = min(len(text.windows), max(1, _TOKENS // context))
    chosen = np.linspace(0, len(text.windows) - 1, count).astype(np.intp)
    return text.windows[chosen, :_TOKENS].astype(np.int32)

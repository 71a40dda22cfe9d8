"""What each step before quantize lost, on a part of the evaluation text: ``measurements/shape.json``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.benchmarks.shape_record import SHAPE_FILE, ShapeRecord, StageLoss
from edgepress.compress.openmp import brief_waits
from edgepress.compress.student.checkpoint import CheckpointStudent
from edgepress.compress.student.student import Student
from edgepress.pipeline.by_tensor import some_windows
from edgepress.pipeline.measure import evaluation_text
from edgepress.pipeline.prune import stage_directories
from edgepress.pipeline.remembered import forget, remember
from edgepress.pipeline.stages import stage_key
from edgepress.pipeline.trim import trimmed_student
from edgepress.recipe import Recipe
from edgepress.recipe_order import step_name


def measure_stages(student: Student, recipe: Recipe, out: Path) -> None:
    """Write the record, unless it is there; remove it where nothing stands before quantize.

    Args:
        student: as it came in, with its whole vocabulary.
        recipe: that made ``out``.
        out: a finished run.
    """
    path = out / "measurements" / SHAPE_FILE
    if not recipe.stages_before_quantize:
        forget(path)
        return
    path.parent.mkdir(exist_ok=True)
    whole, windows = trimmed_student(student, recipe, out), None
    if recipe.evaluate is not None and recipe.before_quantize:
        windows = some_windows(evaluation_text(whole, recipe.evaluate))
    last = [CheckpointStudent(directory).digest() for directory in stage_directories(recipe, out)[-1:]]
    judged = None if windows is None else (windows.shape, windows.tobytes())
    key = stage_key("stages", 3, student.digest(), whole.digest(), recipe.compress, judged, last)
    remember(path, key, ShapeRecord, partial(_measure, student, whole, recipe, out, windows))


def _measure(
    student: Student, whole: Student, recipe: Recipe, out: Path, windows: NDArray[np.int32] | None
) -> ShapeRecord:
    from edgepress.compress.prune.removed import read_removed  # brings torch with it
    from edgepress.compress.search.divergence import Divergence

    places, stages = tuple(range(student.spec.depth)), []
    if recipe.trimming is not None:
        stages.append(StageLoss(step=step_name(type(recipe.trimming)), parameters=whole.parameters))
    with brief_waits():
        divergence = None if windows is None else Divergence(whole, windows)
        before = whole
        for step, directory in zip(recipe.before_quantize, stage_directories(recipe, out), strict=True):
            after, removed = CheckpointStudent(directory), read_removed(directory)
            cut = divergence.of_model(before, removed.change(before.spec)) if divergence and removed else None
            kld = divergence.of_model(after) if divergence else None
            name = step_name(type(step))
            stages.append(StageLoss(step=name, parameters=after.parameters, kld=kld, removed_kld=cut))
            if removed:
                places = tuple(places[index] for index in removed.kept_layers(before.spec.depth))
            before = after
    return ShapeRecord(
        vocab=student.spec.vocab,
        hidden=student.spec.hidden,
        parameters=student.parameters,
        layers=student.spec.layers,
        places=places,
        stages=tuple(stages),
        tokens=0 if windows is None else windows.size,
    )

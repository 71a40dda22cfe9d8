"""The stages before the quantizer: each step of a recipe that makes the model smaller, or heals it, leaves a float32
checkpoint, the next one's student. The last is what gets quantized.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec

from edgepress.compress.calibrate.tokens import calibration_digest
from edgepress.compress.distill.config import DistillStep
from edgepress.compress.prune.config import PruneStep
from edgepress.compress.student.checkpoint import CheckpointStudent
from edgepress.compress.student.student import Student
from edgepress.pipeline.check_pruning import MOST_STEPS, check_pruning
from edgepress.pipeline.heal import heal, healing_digest, what_healed
from edgepress.pipeline.plan import RunPlan, make_plan
from edgepress.pipeline.prune_step import make_smaller
from edgepress.pipeline.reshaped import reshaped
from edgepress.pipeline.stages import Output, stage_key
from edgepress.pipeline.trim import check_trimming, trimmed_student
from edgepress.progress import say
from edgepress.recipe import ExportTarget, Recipe

_PRUNED, _DISTILLED = "pruned-{place}", "distilled-{place}"
_HEALED_VERSION = 4


def plan_before(student: Student, recipe: Recipe, targets: tuple[ExportTarget, ...]) -> RunPlan:
    """The plan of a dry run. Files are those of the shapes that pruning leaves where all layers lose alike; the memory
    is what the student takes as it came in.

    Raises:
        InputError: as :func:`check_pruning`, or something that no plan can be made of.
    """
    check_trimming(student, recipe)
    check_pruning(student, recipe, targets)
    if recipe.trimming:
        say("note: sizes are those with the whole vocabulary; what it becomes is known when the text has been read")
    plan = make_plan(student, recipe, targets, final=not recipe.reshapes)
    if (smaller := reshaped(student, recipe)) is student:
        return plan
    say(
        f"note: sizes are those behind pruning ({student.parameters / 1e6:.1f} M → {smaller.parameters / 1e6:.1f} M "
        "parameters), all layers losing alike; widths chosen by layer, and biases of the repair, change them a little"
    )
    after = make_plan(smaller, recipe, targets, final=False)
    most = max(plan.peak_memory_bytes, after.peak_memory_bytes)
    return msgspec.structs.replace(after, peak_memory_bytes=most, stage_bytes=plan.stage_bytes)


def prune(student: Student, recipe: Recipe, output: Output) -> Student:
    """Do a recipe's steps before quantize; the student itself where it has none.

    Args:
        student: as it came in.
        recipe: with the steps; each of its export targets has to hold the shape.
        output: where the stages lie.
    """
    original = student  # writes the calibration text and teaches: better than what is left of it
    steps = recipe.before_quantize
    if steps:
        key = stage_key("prune", 9, student.digest(), calibration_digest(recipe.calibration), student.name)
    for place, step in enumerate(steps, start=1):
        later = [name for behind in range(place + 1, MOST_STEPS + 1) for name in _names(behind)]
        if isinstance(step, DistillStep):
            key = stage_key(key, _HEALED_VERSION, step, healing_digest(step))
            make = partial(heal, original, student, step, recipe, output.training(key))
        else:
            key = stage_key(key, step, recipe.export)
            make = partial(make_smaller, student, step, recipe, original)
        name = _name(place, step)
        for other in set(_names(place)) - {name}:
            output.forget(other)
        student = CheckpointStudent(output.run(name, key, make, derived=tuple(later)))
    output.forget_trainings()
    for behind in range(len(steps) + 1, MOST_STEPS + 1):
        for name in _names(behind):
            output.forget(name)
    return student


def _names(place: int) -> tuple[str, str]:
    return _PRUNED.format(place=place), _DISTILLED.format(place=place)


def _name(place: int, step: PruneStep | DistillStep) -> str:
    return (_DISTILLED if isinstance(step, DistillStep) else _PRUNED).format(place=place)


def pruned_student(student: Student, recipe: Recipe, out: Path) -> Student:
    """What a finished run quantized: its last stage before that, or the student itself."""
    made = stage_directories(recipe, out)
    return CheckpointStudent(made[-1]) if made else trimmed_student(student, recipe, out)


def stage_directories(recipe: Recipe, out: Path) -> list[Path]:
    """Where a run leaves the models behind the steps between trim_vocabulary and quantize, in order."""
    return [out / _name(place, step) for place, step in enumerate(recipe.before_quantize, start=1)]


def healed(recipe: Recipe, out: Path) -> tuple[str, ...]:
    """What each distill step of a finished run brought, for the report."""
    places = [place for place, step in enumerate(recipe.before_quantize, start=1) if isinstance(step, DistillStep)]
    return tuple(what_healed(out / _DISTILLED.format(place=place)) for place in places)

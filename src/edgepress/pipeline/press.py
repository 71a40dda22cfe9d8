"""The checkpoint stage: calibration text, formats, activations' scales, the quantizer.

Formats for a file's size are searched once. A bound on the divergence is met by trial: the search predicts from errors
before the solver's compensation, so the first solve usually does better than asked for; the bound on the prediction is
then scaled by what was measured, and the model solved again for fewer bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.activations import write_activations
from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.tokens import calibration_windows
from edgepress.compress.quantize.assign import assign_formats
from edgepress.compress.quantize.layers import quantize_model
from edgepress.compress.search.records import Allocation, read_allocation, write_allocation
from edgepress.compress.student.student import Student
from edgepress.pipeline.budget import format_sizes, target_bytes
from edgepress.pipeline.plan import budget_target, model_plan, needs_calibration, predict_files
from edgepress.progress import say
from edgepress.recipe import Recipe

if TYPE_CHECKING:  # the search brings torch with it
    from edgepress.compress.search.choose import FormatSearch

Windows = NDArray[np.int32]
Formats = dict[str, str]
_SOLVES = 3
_MARGIN = 0.95  # of the bound is aimed at
_CLOSE = 0.85  # of the bound is close enough not to solve again


def press(student: Student, recipe: Recipe, directory: Path) -> None:
    """Write a student's checkpoint into ``directory``, which exists and is empty.

    Raises:
        InputError: weights that a format cannot hold, or a budget that no choice of formats meets.
    """
    windows = calibration_windows(student, recipe.calibration) if needs_calibration(recipe) else None
    if windows is None or not recipe.quantize.budgets:
        _solve(student, recipe, windows, {}, directory)
    else:
        _press_to_budget(student, recipe, windows, directory)


def _press_to_budget(student: Student, recipe: Recipe, windows: Windows, directory: Path) -> None:
    from edgepress.compress.search.choose import FormatSearch

    step, target = recipe.quantize, budget_target(recipe)

    def file_bytes(formats: Mapping[str, str]) -> int:
        model = model_plan(student, assign_formats(student, step, formats))
        return sum(predict_files(model, target).values())

    sizes, others = format_sizes(student, step, target, file_bytes)
    budget = target_bytes(student, step)
    with FormatSearch(student, windows, sizes, recipe.calibration.seed, other_bytes=others) as search:
        if budget is None:
            _press_to_divergence(student, recipe, directory, search)
            return
        allocation = search.for_budget(budget - others)
        while (excess := file_bytes(allocation.formats) - budget) > 0:  # sizes add up only nearly in some targets
            allocation = search.for_budget(allocation.budget_bytes - excess)
    _state(allocation)
    _solve(student, recipe, windows, allocation.formats, directory)
    write_allocation(directory, allocation)


def _press_to_divergence(student: Student, recipe: Recipe, directory: Path, search: FormatSearch) -> None:
    """Solve, measure and search again until the divergence is just below the bound; keep the smallest that is.

    The solver does not see the windows that the divergence is measured on.
    """
    goal = recipe.quantize.max_kld or 0.0
    allocations, bound = [search.for_divergence(goal)], goal
    for attempt in range(_SOLVES):
        folder = directory / str(attempt)
        folder.mkdir()
        _state(allocations[attempt])
        _solve(student, recipe, search.rest, allocations[attempt].formats, folder)
        reached = search.solved(Checkpoint(folder).read)
        say(f"solved: divergence {reached:.4f} on held-out text, {goal:g} allowed")
        allocations[attempt] = msgspec.structs.replace(allocations[attempt], solved_kld=reached)
        bound *= _MARGIN * goal / reached
        if _CLOSE * goal <= reached <= goal or attempt == _SOLVES - 1 or bound < search.least:
            break
        allocations.append(search.for_divergence(bound))
        if allocations[-1].formats == allocations[-2].formats:
            allocations.pop()
            break
    best = min(range(len(allocations)), key=lambda attempt: _rank(allocations[attempt], goal))
    _keep(directory, str(best), len(allocations))
    write_allocation(directory, allocations[best])


def _rank(allocation: Allocation, goal: float) -> tuple[bool, float]:
    """Those that meet the bound first, the smaller the better; then the others, the closer the better."""
    reached = allocation.solved_kld
    assert reached is not None
    return reached > goal, reached if reached > goal else allocation.used_bytes


def _keep(directory: Path, best: str, attempts: int) -> None:
    """The files of one attempt take the place of all."""
    for path in sorted((directory / best).iterdir()):
        path.rename(directory / path.name)
    for attempt in range(attempts):
        shutil.rmtree(directory / str(attempt))


def _state(allocation: Allocation) -> None:
    say(
        f"formats chosen: divergence {allocation.tried_kld:.4f} before the final solve, "
        f"{np.mean(allocation.random_kld):.4f} for random formats of the same bytes"
    )


def _solve(student: Student, recipe: Recipe, windows: Windows | None, formats: Formats, directory: Path) -> None:
    """Write the checkpoint; ``formats`` are those that a search chose."""
    source, scales = _smoothed(student, recipe, windows, formats)
    if scales:
        write_activations(directory, scales)
    assignment = assign_formats(student, recipe.quantize, formats)
    quantize_model(source, recipe.quantize, assignment, windows, directory, name=student.name)


def _smoothed(
    student: Student, recipe: Recipe, windows: Windows | None, formats: Formats
) -> tuple[WeightSource, dict[str, float]]:
    """What is quantized, and the static scales of int8 activations where the recipe has them."""
    step = recipe.quantize
    if windows is None or step.activations == "float":
        return student, {}
    from edgepress.compress.quantize.activations import prepare_activations

    return prepare_activations(student, step, assign_formats(student, step, formats), windows)


def unquantized(student: Student, recipe: Recipe, checkpoint: Checkpoint) -> WeightSource:
    """The weights that a checkpoint's were rounded from: the student's, or what smoothing made of them.

    Args:
        student, recipe: that the checkpoint was made of and by.
        checkpoint: finished.
    """
    if recipe.quantize.activations == "float":
        return student
    windows = calibration_windows(student, recipe.calibration)
    allocation = read_allocation(checkpoint.directory)
    if recipe.quantize.max_kld is not None:
        from edgepress.compress.search.choose import split_windows

        windows = split_windows(windows)[1]
    return _smoothed(student, recipe, windows, allocation.formats if allocation else {})[0]

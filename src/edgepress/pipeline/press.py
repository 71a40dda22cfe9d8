"""The checkpoint stage: calibration text, preparation, formats, activations' scales, the quantizer.

Formats for a file's size are searched once. A bound on the divergence is met by trial: the search predicts from errors
before the solver's compensation, so the first solve usually does better than asked for; the bound on the prediction is
then scaled by what was measured, and the model solved again for fewer bytes.
"""

from __future__ import annotations

import math
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
from edgepress.compress.quantize.prepare.apply import prepare
from edgepress.compress.search.records import COSTS_FILE, Allocation, write_allocation
from edgepress.compress.student.student import Student
from edgepress.pipeline.budget import format_sizes, smallest_formats, target_bytes
from edgepress.pipeline.costs import token_time_limit
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
    step = recipe.quantize
    windows = calibration_windows(student, recipe.calibration) if needs_calibration(recipe) else None
    coarsest = smallest_formats(student, step, budget_target(recipe)) if step.budgets else {}
    source = prepare(student, step, assign_formats(student, step, coarsest).formats, windows)
    if windows is None or not step.budgets:
        _solve(source, student.name, recipe, windows, {}, directory)
    else:
        _press_to_budget(student, source, recipe, windows, directory)


def _press_to_budget(student: Student, source: WeightSource, recipe: Recipe, windows: Windows, directory: Path) -> None:
    from edgepress.compress.search.allocate import allocate
    from edgepress.compress.search.choose import FormatSearch

    step, target = recipe.quantize, budget_target(recipe)

    def file_bytes(formats: Mapping[str, str]) -> int:
        model = model_plan(student, assign_formats(student, step, formats))
        return sum(predict_files(model, target).values())

    sizes, others = format_sizes(student, step, target, file_bytes)
    budget, time = target_bytes(student, step), token_time_limit(student, step, target)
    room = math.inf if budget is None else budget - others
    if time is not None:
        allocate(sizes, sizes, room, time)  # refuses limits that exclude each other before anything is measured
    if step.costs is not None:
        shutil.copyfile(step.costs, directory / COSTS_FILE)
    with FormatSearch(source, windows, sizes, recipe.calibration.seed, time) as search:
        if step.max_kld is not None:
            _press_to_divergence(source, student.name, recipe, directory, search)
            return
        allocation = search.for_budget(room)
        # Sizes add up only nearly in some targets.
        while budget is not None and (excess := file_bytes(allocation.formats) - budget) > 0:
            room -= excess
            allocation = search.for_budget(room)
    _state(allocation)
    _solve(source, student.name, recipe, windows, allocation.formats, directory)
    write_allocation(directory, allocation)


def _press_to_divergence(
    source: WeightSource, name: str, recipe: Recipe, directory: Path, search: FormatSearch
) -> None:
    """Solve, measure and search again until the divergence is just below the bound; keep the smallest that is.

    The solver does not see the windows that the divergence is measured on.
    """
    goal = recipe.quantize.max_kld or 0.0
    allocations, bound = [search.for_divergence(goal)], goal
    for attempt in range(_SOLVES):
        folder = directory / str(attempt)
        folder.mkdir()
        _state(allocations[attempt])
        _solve(source, name, recipe, search.rest, allocations[attempt].formats, folder)
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
        f"{np.mean(allocation.random_kld):.4f} for random formats within the same limits"
    )
    if (time := allocation.time) is not None:
        say(
            f"predicted {time.chosen_ms:.3g} ms per token in the matrices, {time.target_ms:g} allowed; "
            f"{time.unbounded_ms:.3g} without the bound"
        )


def _solve(
    source: WeightSource, name: str, recipe: Recipe, windows: Windows | None, formats: Formats, directory: Path
) -> None:
    """Write the checkpoint; ``formats`` are those that a search chose."""
    step = recipe.quantize
    assignment = assign_formats(source, step, formats)
    if windows is not None and step.activations != "float":
        from edgepress.compress.quantize.activations import prepare_activations

        source, scales = prepare_activations(source, step, assignment, windows)
        write_activations(directory, scales)
    quantize_model(source, step, assignment, windows, directory, name=name)

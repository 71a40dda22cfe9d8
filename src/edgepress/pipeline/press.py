"""The checkpoint stage: calibration text, preparation, formats, the quantizer.

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

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.held_out import hold_out
from edgepress.compress.openmp import brief_waits
from edgepress.compress.quantize.assign import assign_formats
from edgepress.compress.quantize.prepare.apply import prepare
from edgepress.compress.search.records import COSTS_FILE, Allocation, read_allocation, write_allocation
from edgepress.compress.student.student import Student
from edgepress.pipeline.budget import SOLVES_FOR_A_BOUND, format_sizes, smallest_formats, target_bytes
from edgepress.pipeline.costs import token_time_limit
from edgepress.pipeline.plan import budget_target, model_plan
from edgepress.pipeline.solve import Text, Windows, Work, calibration_text
from edgepress.pipeline.targets import predict_files
from edgepress.pipeline.text_needed import rounding_needs_text
from edgepress.progress import say
from edgepress.recipe import Recipe

if TYPE_CHECKING:  # the search brings torch with it
    from edgepress.compress.search.choose import FormatSearch

_MARGIN = 0.95  # of the bound is aimed at
_CLOSE = 0.85  # of the bound is close enough not to solve again
_LEAST = 1e-3  # of the bound counts as no divergence at all


def press(student: Student, recipe: Recipe, directory: Path) -> None:
    """Write a student's checkpoint into ``directory``, which exists and is empty.

    Raises:
        InputError: weights that a format cannot hold, or a budget that no choice of formats meets.
    """
    with brief_waits():
        text = calibration_text(student, recipe) if rounding_needs_text(recipe.quantize) else None
        work = Work(student, _prepared(student, recipe, text), recipe, text)
        if text is None or not recipe.quantize.budgets:
            work.solve({}, directory)
        else:
            _press_to_budget(work, text, directory)


def unquantized(student: Student, recipe: Recipe, checkpoint: Checkpoint) -> WeightSource:
    """The weights that a checkpoint's were rounded from: the student's, or what preparation and smoothing made of them.

    Args:
        student, recipe: that the checkpoint was made of and by.
        checkpoint: finished.
    """
    if recipe.quantize.activations == "float" and not recipe.quantize.prepare:
        return student
    text = calibration_text(student, recipe) if rounding_needs_text(recipe.quantize) else None
    allocation = read_allocation(checkpoint.directory)
    work = Work(student, _prepared(student, recipe, text), recipe, text)
    return work.smoothed(allocation.formats if allocation else {}, _not_judged_by(recipe, text))[0]


def _prepared(student: Student, recipe: Recipe, text: Text | None) -> WeightSource:
    step = recipe.quantize
    coarsest = smallest_formats(student, step, budget_target(recipe)) if step.budgets else {}
    formats = assign_formats(student, step, coarsest).formats
    return prepare(student, step, formats, _not_judged_by(recipe, text))


def _not_judged_by(recipe: Recipe, text: Text | None) -> Windows | None:
    """The calibration windows that may be looked at: a bound on the divergence is judged by those set aside."""
    if text is None or recipe.quantize.max_kld is None:
        return text.solver if text else None
    return hold_out(text.solver)[1]


def _press_to_budget(work: Work, text: Text, directory: Path) -> None:
    from edgepress.compress.search.allocate import allocate
    from edgepress.compress.search.choose import FormatSearch

    student, recipe, step = work.student, work.recipe, work.recipe.quantize
    target = budget_target(recipe)

    def file_bytes(formats: Mapping[str, str]) -> int:
        model = model_plan(student, assign_formats(student, step, formats))
        return sum(predict_files(model, target, recipe.tensorrt).values())

    sizes, others = format_sizes(student, step, target, file_bytes)
    budget, time = target_bytes(student, step), token_time_limit(student, step, target)
    room = math.inf if budget is None else budget - others
    if time is not None:
        allocate(sizes, sizes, room, time)  # refuses limits that exclude each other before anything is measured
    if step.costs is not None:
        shutil.copyfile(step.costs, directory / COSTS_FILE)
    seed = recipe.calibration.seed
    with FormatSearch(work.source, text.solver, sizes, seed, time, other_bytes=others) as search:
        if step.max_kld is not None:
            _press_to_divergence(work, directory, search, step.max_kld)
            return
        allocation = search.for_budget(room)
        # Sizes add up only nearly in some targets.
        while budget is not None and (excess := file_bytes(allocation.formats) - budget) > 0:
            room -= excess
            allocation = search.for_budget(room)
    _state(allocation)
    work.solve(allocation.formats, directory)
    write_allocation(directory, allocation)


def _press_to_divergence(work: Work, directory: Path, search: FormatSearch, goal: float) -> None:
    """Solve, measure and search again until the divergence is just below the bound; keep the smallest that is.

    The solver does not see the windows that the divergence is measured on.
    """
    allocations, bound = [search.for_divergence(goal)], goal
    for attempt in range(SOLVES_FOR_A_BOUND):
        folder = directory / str(attempt)
        folder.mkdir()
        _state(allocations[attempt])
        work.solve(allocations[attempt].formats, folder, search.rest)
        reached = search.solved(Checkpoint(folder))
        say(f"solved: divergence {reached:.4f} on held-out text, {goal:g} allowed")
        allocations[attempt] = msgspec.structs.replace(allocations[attempt], solved_kld=reached, max_kld=goal)
        bound *= _MARGIN * goal / max(reached, _LEAST * goal)
        if _CLOSE * goal <= reached <= goal or attempt == SOLVES_FOR_A_BOUND - 1 or bound < search.least:
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

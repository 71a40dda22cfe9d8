"""The compiled loops do what plain loops over single values do, on any number of threads and any disk."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_disk import run_on_small_disk

from edgepress.artifact.formats import get_format
from edgepress.compress.quantize.gptaq.block import factors_of
from edgepress.compress.quantize.gptaq.grid import Grid
from edgepress.compress.quantize.gptaq.kernels import best_with_feedback, descend

Doubles = NDArray[np.float64]
FORMATS = ["q4_0", "iq4_nl", "q4_1", "q8_0"]


def problem(rows: int, width: int, format: str) -> tuple[Doubles, Doubles, Grid]:
    """Weights, a Hessian and the levels of a format."""
    rng = np.random.default_rng(rows)
    inputs = rng.standard_normal((4 * width, width)) @ rng.standard_normal((width, width))
    return rng.standard_normal((rows, width)), inputs.T @ inputs / len(inputs), Grid(get_format(format))


def nearest(value: float, grid: Grid) -> float:
    levels = grid.levels.double().numpy()
    return float(levels[np.abs(levels - value).argmin()])


def rounded_with_feedback(
    weight: Doubles, upper: Doubles, grid: Grid, scale: float, minimum: float
) -> tuple[list[float], float]:
    """GPTQ's loop on one row, one column at a time."""
    left, levels, loss = weight.copy(), [], 0.0
    for j in range(len(left)):
        levels.append(nearest((left[j] - minimum) / scale, grid) if scale else nearest(0.0, grid))
        error = (left[j] - minimum - scale * levels[j]) / upper[j, j]
        left[j + 1 :] -= error * upper[j, j + 1 :]
        loss += error**2
    return levels, loss


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("rows", "width", "candidates"), [(1, 8, 1), (150, 8, 3), (9, 16, 30), (3, 40, 128)])
def test_the_best_candidate_is_that_of_a_plain_loop(format: str, rows: int, width: int, candidates: int) -> None:
    weight, hessian, grid = problem(rows, width, format)
    rng = np.random.default_rng(1)
    scale = rng.uniform(0.3, 4.0, (rows, candidates)) / abs(grid.high) * rng.choice([-1, 1], (rows, candidates))
    minimum = rng.standard_normal((rows, candidates)) if grid.spec.has_min else np.zeros((rows, candidates))
    upper = factors_of(torch.from_numpy(hessian)).upper
    weights, scales, minima = (torch.from_numpy(part).float() for part in (weight, scale, minimum))
    found = best_with_feedback(weights, upper, grid, scales, minima)
    for row in range(rows):
        tried = [
            rounded_with_feedback(weight[row], upper.double().numpy(), grid, scale[row, c], minimum[row, c])
            for c in range(candidates)
        ]
        losses = [loss for _, loss in tried]
        best = int(found.best[row])
        assert found.loss[row] == pytest.approx(losses[best], rel=1e-3)
        assert losses[best] <= min(losses) * (1 + 1e-3)
        np.testing.assert_allclose(found.levels[row], tried[best][0], atol=1.0 if format == "q8_0" else 0.0)
        assert float((found.errors[row] ** 2).sum()) == pytest.approx(losses[best], rel=1e-3)


def test_a_scale_of_zero_rounds_to_level_zero_and_loses_the_whole_block() -> None:
    weight, hessian, grid = problem(5, 8, "q4_0")
    rows, nothing = torch.from_numpy(weight).float(), torch.zeros(5, 1)
    found = best_with_feedback(rows, factors_of(torch.from_numpy(hessian)).upper, grid, nothing, nothing)
    assert not found.levels.any()
    np.testing.assert_allclose(found.loss, np.einsum("ri,ij,rj->r", weight, hessian, weight), rtol=1e-3)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("passes", [1, 2])
def test_integers_are_moved_one_by_one_as_in_a_plain_loop(format: str, passes: int) -> None:
    weight, hessian, grid = problem(150, 8, format)
    scale = np.abs(weight).max(1) / abs(grid.low or grid.high)
    scale[::7] = 0.0
    levels = np.random.default_rng(2).choice(grid.levels.double().numpy(), weight.shape)
    slope = (weight - levels * scale[:, None]) @ hessian
    start, slopes, scales, moments = (torch.from_numpy(part).float() for part in (levels, slope, scale, hessian))
    found = descend(start, slopes, scales, moments, grid, passes).double().numpy()
    for row in range(len(weight)):
        for j in list(range(8)) * passes:
            wanted = levels[row, j] + (slope[row, j] / (scale[row] * hessian[j, j]) if scale[row] else 0.0)
            moved = nearest(wanted, grid)
            slope[row] -= scale[row] * (moved - levels[row, j]) * hessian[j]
            levels[row, j] = moved
    assert (found[::7] == levels[::7]).all()
    assert (found == levels).mean() > (0.97 if format == "q8_0" else 0.999)


@pytest.mark.parametrize("format", FORMATS)
def test_every_integer_ends_at_its_exact_minimum_given_the_others(format: str) -> None:
    weight, hessian, grid = problem(200, 8, format)
    scale = np.abs(weight).max(1) / abs(grid.low or grid.high)
    levels = np.array([[nearest(value, grid) for value in row] for row in weight / scale[:, None]])
    slope = (weight - levels * scale[:, None]) @ hessian
    start, slopes, scales, moments = (torch.from_numpy(part).float() for part in (levels, slope, scale, hessian))
    moved = descend(start, slopes, scales, moments, grid, passes=20).double().numpy()

    def error(levels: Doubles) -> Doubles:
        difference = weight - levels * scale[:, None]
        result: Doubles = np.einsum("ri,ij,rj->r", difference, hessian, difference)
        return result

    reached = error(moved)
    assert (reached <= error(levels) * (1 + 1e-4)).all()
    assert (reached < error(levels)).mean() > 0.2
    for column in range(8):
        for level in grid.levels.tolist():
            other = moved.copy()
            other[:, column] = level
            assert (error(other) >= reached * (1 - 1e-3) - 1e-6).all()


def test_ties_go_to_the_even_level_and_to_the_first_candidate() -> None:
    grid, one = Grid(get_format("q4_0")), torch.eye(4)
    weight = torch.tensor([[0.5, 1.5, 2.5, -0.5]])
    found = best_with_feedback(weight, one, grid, torch.ones(1, 3), torch.zeros(1, 3))
    assert found.levels.tolist() == [[0, 2, 2, 0]]
    assert found.best.tolist() == [0]


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_not_a_number_stays_within_the_levels_or_shows(format: str) -> None:
    grid, one = Grid(get_format(format)), torch.eye(4)
    for value in (np.nan, np.inf, -np.inf):
        found = best_with_feedback(torch.full((2, 4), value), one, grid, torch.ones(2, 2), torch.zeros(2, 2))
        assert not torch.isfinite(found.loss).any()
        assert (torch.isnan(found.levels) | torch.isin(found.levels, grid.levels)).all()


def test_a_forked_process_has_threads_of_its_own() -> None:
    weight, hessian, grid = problem(200, 8, "q4_0")
    rows, scale = torch.from_numpy(weight).float(), torch.full((200, 1), 0.1)
    upper, threads = factors_of(torch.from_numpy(hessian)).upper, torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        best_with_feedback(rows, upper, grid, scale, torch.zeros_like(scale))
        child = os.fork()
        if child == 0:
            best_with_feedback(rows, upper, grid, scale, torch.zeros_like(scale))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        torch.set_num_threads(threads)


def test_rows_come_out_the_same_on_one_thread_and_on_several() -> None:
    weight, hessian, grid = problem(517, 32, "iq4_nl")
    rows, scale = torch.from_numpy(weight).float(), torch.from_numpy(np.abs(weight)[:, :7]).float() / 100
    upper, threads = factors_of(torch.from_numpy(hessian)).upper, torch.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(best_with_feedback(rows, upper, grid, scale, torch.zeros_like(scale)))
    finally:
        torch.set_num_threads(threads)
    for one, several in zip(*results, strict=True):
        assert torch.equal(one, several)


_ON_FULL_DISK = """
import os, sys
os.environ["NUMBA_CACHE_DIR"] = sys.argv[1]
import torch
from edgepress.artifact.formats import get_format
from edgepress.compress.quantize.gptaq.grid import Grid
from edgepress.compress.quantize.gptaq.kernels import best_with_feedback
torch.set_num_threads(int(sys.argv[2]))
ones = torch.ones(200, 1)
found = best_with_feedback(ones * 3.0, torch.eye(1), Grid(get_format("q4_0")), ones, ones * 0)
print(found.levels.unique().tolist())
"""


@pytest.mark.parametrize("kilobytes", [4, 16])
@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_disk_too_full_for_compiled_code_is_no_reason_to_stop(threads: str, kilobytes: int, tmp_path: Path) -> None:
    done = run_on_small_disk(_ON_FULL_DISK, tmp_path, kilobytes, threads)
    assert done.stdout.strip() == "[3.0]", done.stderr

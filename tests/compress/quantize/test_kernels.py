import numpy as np
import pytest
import torch
from numpy.typing import NDArray

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

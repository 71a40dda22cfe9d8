"""The solver's inner loops, compiled; in both, many independent problems go through the same arithmetic side by side.

GPTQ's loop inside one block, for a fan of scales, row by row:

    q_j = nearest((w_j - m) / s),    e_j = (w_j - m - s q_j) / U_jj,    w_k ← w_k - e_j U_jk  for k > j

The loss of a candidate (s, m) is Σ e_j², which is (ŵ - w) H (ŵ - w)ᵀ with H⁻¹ = Uᵀ U; the least one decides.

Coordinate descent on a block's integers at a fixed scale, with the slope g = (w - ŵ) H of what is wanted:

    q_j ← nearest(q_j + g_j / (s H_jj)),    g ← g - s Δq_j H_j

Source of the first: Frantar et al., GPTQ (arXiv 2210.17323); there the scale is given, here a fan of them is tried.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.compress.compiled import compiled, in_bands
from edgepress.compress.quantize.gptaq.grid import Grid

_Array = NDArray[np.float32]
_LANES = 128  # candidates side by side; a constant, so that the innermost loops are vector instructions to the end


class Fed(NamedTuple):
    """Of the best candidate of every row; ``errors`` are the e_j above."""

    levels: torch.Tensor  # (rows, width)
    errors: torch.Tensor  # (rows, width)
    best: torch.Tensor  # (rows,), int64: which candidate
    loss: torch.Tensor  # (rows,)


def best_with_feedback(
    weight: torch.Tensor, upper: torch.Tensor, grid: Grid, scale: torch.Tensor, minimum: torch.Tensor
) -> Fed:
    """The candidate with the least loss; the first of several.

    Args:
        weight: float32, (rows, width).
        upper: float32, (width, width), U.
        grid: the format's levels.
        scale: float32, (rows, candidates), at most 128 candidates; a scale of zero rounds everything to level 0.
        minimum: float32, (rows, candidates).
    """
    rows, width = weight.shape
    fed = Fed(
        torch.empty(rows, width), torch.empty(rows, width), torch.empty(rows, dtype=torch.int64), torch.empty(rows)
    )
    arrays = [part.contiguous().numpy() for part in (weight, upper, scale, minimum)]
    results = [part.numpy() for part in fed]
    in_bands(lambda start, stop: _search(start, stop, *arrays, *_ends(grid), *results), rows)
    return fed


def descend(
    levels: torch.Tensor, slope: torch.Tensor, scale: torch.Tensor, hessian: torch.Tensor, grid: Grid, passes: int
) -> torch.Tensor:
    """Levels after ``passes`` over a block's integers, (rows, width).

    Args:
        levels: float32, (rows, width).
        slope: float32, (rows, width), g.
        scale: float32, (rows,); where it is zero nothing moves.
        hessian: float32, (width, width), symmetric.
        grid: the format's levels.
        passes: how often every integer is visited.
    """
    moved = torch.empty_like(levels)
    arrays = [part.contiguous().numpy() for part in (levels, slope, scale, hessian)]
    in_bands(lambda start, stop: _descend(start, stop, *arrays, *_ends(grid), passes, moved.numpy()), len(levels))
    return moved


def _ends(grid: Grid) -> tuple[np.float32, np.float32, np.float32, _Array]:
    """Lowest and highest level, and of a grid that is not uniform the table with how many of its cells are a unit."""
    table = grid.table.numpy()[: 0 if grid.uniform else None]
    return np.float32(grid.low), np.float32(grid.high), np.float32(grid.cells_per_unit), table


@compiled
def _search(
    start: int,
    stop: int,
    weight: _Array,
    upper: _Array,
    scale: _Array,
    minimum: _Array,
    low: np.float32,
    high: np.float32,
    per_unit: np.float32,
    table: _Array,
    levels: _Array,
    errors: _Array,
    best: NDArray[np.int64],
    losses: _Array,
) -> None:
    """Rows ``start`` to ``stop`` of ``levels``, ``errors``, ``best`` and ``losses``."""
    width, candidates = weight.shape[1], scale.shape[1]
    at_a_time = _LANES // candidates
    left = np.zeros((width, _LANES), np.float32)
    level, error = np.empty_like(left), np.empty_like(left)
    scales, per_scale, loss = np.zeros((3, _LANES), np.float32)
    for first in range(start, stop, at_a_time):
        rows = min(at_a_time, stop - first)
        for lane in range(rows * candidates):
            row, c = first + lane // candidates, lane % candidates
            scales[lane] = scale[row, c]
            per_scale[lane] = np.float32(1) / scale[row, c] if scale[row, c] != 0 else np.float32(0)
            for j in range(width):
                left[j, lane] = weight[row, j] - minimum[row, c]
        loss[:] = 0
        for j in range(width):
            for lane in range(_LANES):
                level[j, lane] = left[j, lane] * per_scale[lane]
            _nearest(level[j], low, high, per_unit, table)
            for lane in range(_LANES):
                error[j, lane] = (left[j, lane] - level[j, lane] * scales[lane]) / upper[j, j]
                loss[lane] += error[j, lane] * error[j, lane]
            for k in range(j + 1, width):
                for lane in range(_LANES):
                    left[k, lane] -= upper[j, k] * error[j, lane]
        for row in range(first, first + rows):
            lane = (row - first) * candidates
            best[row] = loss[lane : lane + candidates].argmin()
            lane += best[row]
            losses[row] = loss[lane]
            levels[row], errors[row] = level[:, lane], error[:, lane]


@compiled
def _descend(
    start: int,
    stop: int,
    levels: _Array,
    slopes: _Array,
    scale: _Array,
    hessian: _Array,
    low: np.float32,
    high: np.float32,
    per_unit: np.float32,
    table: _Array,
    passes: int,
    result: _Array,
) -> None:
    """Rows ``start`` to ``stop`` of ``result``."""
    width = levels.shape[1]
    level, slope = np.zeros((2, width, _LANES), np.float32)
    scales, per_scale, moved = np.zeros((3, _LANES), np.float32)
    for first in range(start, stop, _LANES):
        rows = min(_LANES, stop - first)
        for lane in range(rows):
            scales[lane] = scale[first + lane]
            per_scale[lane] = np.float32(1) / scales[lane] if scales[lane] != 0 else np.float32(0)
            level[:, lane], slope[:, lane] = levels[first + lane], slopes[first + lane]
        for step in range(passes * width):
            j = step % width
            for lane in range(_LANES):
                moved[lane] = level[j, lane] + slope[j, lane] * (per_scale[lane] / hessian[j, j])
            _nearest(moved, low, high, per_unit, table)
            for lane in range(_LANES):
                moved[lane], level[j, lane] = (moved[lane] - level[j, lane]) * scales[lane], moved[lane]
            for k in range(width):
                for lane in range(_LANES):
                    slope[k, lane] -= hessian[j, k] * moved[lane]
        for lane in range(rows):
            result[first + lane] = level[:, lane]


@compiled
def _nearest(scaled: _Array, low: np.float32, high: np.float32, per_unit: np.float32, table: _Array) -> None:
    """Put the nearest levels in place of values: those of a uniform grid from ``low`` to ``high`` where there is no
    ``table`` of the levels at cells of which ``per_unit`` are a unit.
    """
    if len(table) == 0:
        for lane in range(_LANES):
            scaled[lane] = np.rint(min(max(scaled[lane], low), high))
        return
    origin, last = per_unit * low - np.float32(1), np.float32(len(table) - 1)
    for lane in range(_LANES):
        cell = per_unit * scaled[lane] - origin
        cell = cell if cell > 0 else np.float32(0)  # what is not a number as well, which would point outside the table
        scaled[lane] = table[np.int32(min(cell, last))]

"""One block of columns: the scale for which rounding *with* error feedback loses least.

GPTQ rounds a block column by column and moves what a column loses into the columns to come (``kernels``). Usually its
scale s is fixed beforehand, by a rule that does not know of the feedback. Here every scale of a fan is tried with it,
and the least loss decides; then s (and the minimum m) are refitted to the codes by least squares in the block's Hessian
and the loop runs again around that.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from edgepress.compress.quantize.gptaq.grid import Grid, inverse
from edgepress.compress.quantize.gptaq.kernels import best_with_feedback
from edgepress.compress.quantize.gptaq.lattice import Lattice

_REFITS = 2
_NEIGHBOURS = (1.0, 1.01, 0.99)


class Solution(NamedTuple):
    """Of one block, row by row; ``errors`` are the e_j of ``kernels``, to be fed to the columns behind the block."""

    levels: torch.Tensor  # (rows, width)
    errors: torch.Tensor  # (rows, width)
    scale: torch.Tensor  # (rows,)
    minimum: torch.Tensor  # (rows,)
    loss: torch.Tensor  # (rows,)


class Factors(NamedTuple):
    """A block's Hessian (width, width) and the upper triangular U with U^T U = its inverse."""

    hessian: torch.Tensor
    upper: torch.Tensor


def factors_of(hessian: torch.Tensor) -> Factors:
    """From a positive definite Hessian, float64."""
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    return Factors(hessian.float(), upper.float())


def factors_from_upper(upper: torch.Tensor) -> Factors:
    """From U, float64: the Hessian that is left when the columns behind the block make up for it optimally."""
    return Factors(torch.cholesky_inverse(upper, upper=True).float(), upper.float())


def solve_block(weight: torch.Tensor, factors: Factors, grid: Grid, lattice: Lattice) -> Solution:
    """Levels and scale of a block.

    Args:
        weight: float32, (rows, width).
        factors: of the block's Hessian.
        grid: the format's levels.
        lattice: the scales it can store.
    """
    best = _best(weight, factors.upper, grid, *lattice.snap(*_fan(weight, grid)))
    for _ in range(_REFITS):
        scale, minimum = _least_squares(best.levels, weight, factors.hessian, grid.spec.has_min)
        scale, minimum = torch.where(scale != 0, scale, best.scale), torch.where(scale != 0, minimum, best.minimum)
        spread = torch.tensor(_NEIGHBOURS)[:, None]
        trial = _best(weight, factors.upper, grid, *lattice.snap(scale * spread, minimum.expand(len(spread), -1)))
        better = trial.loss < best.loss
        if not better.any():
            break
        best = Solution(*(_where(better, new, old) for new, old in zip(trial, best, strict=True)))
    return best


def _where(better: torch.Tensor, new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    return torch.where(better if new.ndim == 1 else better[:, None], new, old)


def _fan(weight: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """Candidate scales and minima, (candidates, rows)."""
    if grid.spec.has_min:
        low = weight.amin(1)
        # The K types cannot store a minimum above zero.
        low = low.clamp(max=0) if grid.spec.kind == "super" else low
        top = grid.high + torch.arange(-8, 13) * (0.025 * grid.high / 2)
        scale = (weight.amax(1) - low) / top[:, None]
        return scale, low.expand(len(top), -1)
    place = weight.abs().argmax(1, keepdim=True)
    scale = weight.gather(1, place)[:, 0] / _targets(grid)[:, None]
    return scale, torch.zeros_like(scale)


def _targets(grid: Grid) -> torch.Tensor:
    """Where on the grid to put the value of largest magnitude: around the lowest and around the highest level."""
    shrink = torch.arange(-1, 4) * 0.006 if grid.spec.bits >= 8 else torch.arange(-4, 11) * 0.027
    return torch.cat([end * (1 - shrink) for end in (grid.low, grid.high)])


def _best(
    weight: torch.Tensor, upper: torch.Tensor, grid: Grid, scale: torch.Tensor, minimum: torch.Tensor
) -> Solution:
    """The candidate with the least loss, row by row; candidates are (candidates, rows)."""
    fed = best_with_feedback(weight, upper, grid, scale.T, minimum.T)
    place = fed.best[None]
    return Solution(fed.levels, fed.errors, scale.gather(0, place)[0], minimum.gather(0, place)[0], fed.loss)


def _least_squares(
    levels: torch.Tensor, weight: torch.Tensor, hessian: torch.Tensor, has_min: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and minimum of least (s q + m - w) H (s q + m - w)^T for given levels; scale 0 where it is undetermined."""
    pressed = levels @ hessian
    qq, qw = (pressed * levels).sum(1), (pressed * weight).sum(1)
    if not has_min:
        return qw * inverse(qq), torch.zeros_like(qw)
    ones = hessian.sum(0)
    q1, w1, total = levels @ ones, weight @ ones, ones.sum()
    determinant = qq * total - q1 * q1
    solvable = determinant > 1e-6 * qq * total
    scale = torch.where(solvable, (total * qw - q1 * w1) / determinant, torch.zeros_like(qw))
    minimum = torch.where(solvable, (qq * w1 - q1 * qw) / determinant, torch.zeros_like(qw))
    return scale, minimum

"""Values of a grid from continuous codes, differentiable by the straight-through estimator.

    Ŵ = scale · Q(u) + minimum            Q: the level of the format nearest to u

Q is a staircase whose derivative is 0 almost everywhere. Going back it is taken for the identity inside the grid, and
for a constant outside, where it is one:

    ∂L/∂u = ∂L/∂Ŵ · scale                 where u is nearer than half a gap to the grid's range, else 0
    ∂L/∂scale = Σ ∂L/∂Ŵ · Q(u)            over the values that share the scale; exact
    ∂L/∂minimum = Σ ∂L/∂Ŵ                 exact

Source: Bengio et al., arXiv 1308.3432. Where we depart from LSQ (arXiv 1902.08153): u is in units of levels and does
not change with the scale, so the scale's gradient has no rounding term and codes move only by their own gradient.
"""

from __future__ import annotations

from typing import Any

import torch

from edgepress.compress.quantize.gptaq.grid import Grid


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, codes: torch.Tensor, scale: torch.Tensor, minimum: torch.Tensor, grid: Grid) -> torch.Tensor:
        ctx.save_for_backward(codes, scale)
        ctx.grid = grid
        levels = _by_block(grid.nearest(codes.clone()), scale)
        return (levels * scale[..., None] + minimum[..., None]).view(codes.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        codes, scale = ctx.saved_tensors
        by_block, grid = _by_block(gradient, scale), ctx.grid
        levels = _by_block(grid.nearest(codes.clone()), scale)
        reach = mean_gap(grid) / 2
        inside = (codes >= grid.low - reach) & (codes <= grid.high + reach)
        to_codes = (by_block * scale[..., None]).view(codes.shape) * inside
        return to_codes, (by_block * levels).sum(-1), by_block.sum(-1), None


def grid_values(codes: torch.Tensor, scale: torch.Tensor, minimum: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Ŵ, float32, (rows, columns).

    Args:
        codes: u, in units of levels, (rows, columns).
        scale: (rows, blocks), what a block's levels are multiplied by.
        minimum: like scale.
        grid: the format's levels.
    """
    values: torch.Tensor = _StraightThrough.apply(codes, scale, minimum, grid)
    return values


def mean_gap(grid: Grid) -> float:
    """Mean distance of neighbouring levels; 1 on uniform grids."""
    return (grid.high - grid.low) / (len(grid.levels) - 1)


def _by_block(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return values.view(*scale.shape, -1)

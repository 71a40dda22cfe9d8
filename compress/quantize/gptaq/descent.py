"""Coordinate descent over blocks and integers: never raises the error (Ŵ - W) H (Ŵ - W)ᵀ.

With R = (W - Ŵ) H, the best real values of block b given all others are ŵ_b + R_b H_bb⁻¹, and what rounding them costs
is measured by H_bb. So each block in turn is solved anew by ``block``'s search, and kept row by row where the block's
exact error fell. Then its integers are moved one at a time to their exact minimum, q_j ← nearest(q_j + R_j / (s H_jj)),
which is the best level on non-uniform grids too, since the error is a parabola in ŵ_j.
"""

from __future__ import annotations

import torch

from edgepress.compress.quantize.gptaq.block import Factors, factors_of, solve_block
from edgepress.compress.quantize.gptaq.grid import Grid
from edgepress.compress.quantize.gptaq.kernels import descend
from edgepress.compress.quantize.gptaq.rounded import Rounded

_PASSES = 2


class Descent:
    """Descends on one Hessian; its factors are made once for all bands of rows and all sweeps."""

    def __init__(self, hessian: torch.Tensor, width: int, grid: Grid) -> None:
        self._hessian = hessian.float()
        self._grid = grid
        starts = range(0, len(hessian), width)
        squares = [hessian[start : start + width, start : start + width] for start in starts]
        self._factors = [factors_of(square) for square in squares]
        self._inverses = [torch.linalg.inv(square).float() for square in squares]

    def improve(self, state: Rounded, target: torch.Tensor, *, search: bool) -> None:
        """One sweep over the blocks, in place; with ``search`` the scales are searched anew."""
        residual = (target - state.values()) @ self._hessian
        for block, factors in enumerate(self._factors):
            columns = state.columns(block)
            before = state.block_values(block)
            wanted = before + residual[:, columns] @ self._inverses[block]
            if search:
                self._search(state, block, wanted, before, factors)
            self._walk(state, block, wanted, factors.hessian)
            residual -= (state.block_values(block) - before) @ self._hessian[columns]

    def _search(self, state: Rounded, block: int, wanted: torch.Tensor, before: torch.Tensor, factors: Factors) -> None:
        found = solve_block(wanted, factors, self._grid, state.lattice(block))
        after = found.levels * found.scale[:, None] + found.minimum[:, None]
        better = _error(wanted - after, factors.hessian) < _error(wanted - before, factors.hessian)
        columns = state.columns(block)
        state.levels[better, columns] = found.levels[better]
        state.scale[better, block] = found.scale[better]
        state.minimum[better, block] = found.minimum[better]

    def _walk(self, state: Rounded, block: int, wanted: torch.Tensor, hessian: torch.Tensor) -> None:
        """Move the block's integers one by one."""
        columns = state.columns(block)
        slope = (wanted - state.block_values(block)) @ hessian
        levels = descend(state.levels[:, columns], slope, state.scale[:, block], hessian, self._grid, _PASSES)
        state.levels[:, columns] = levels


def _error(difference: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    return ((difference @ hessian) * difference).sum(1)

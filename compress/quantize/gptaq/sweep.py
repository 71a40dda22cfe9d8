"""From left to right over the columns: each block is rounded, and the columns behind it make up for what it loses.

With H⁻¹ = Uᵀ U, U upper triangular, the columns k behind a block with errors e move by w_k ← w_k - Σ_j e_j U_jk. Given
everything to its left, the Hessian of a block whose later columns will answer optimally is (U_bᵀ U_b)⁻¹ with U_b the
block's square on the diagonal of U, which is what ``block`` minimises.

Source: Frantar et al., GPTQ (arXiv 2210.17323), with lazy batches of one block.
"""

from __future__ import annotations

import torch

from edgepress.artifact.formats import Format
from edgepress.compress.quantize.gptaq.block import factors_from_upper, solve_block
from edgepress.compress.quantize.gptaq.grid import Grid
from edgepress.compress.quantize.gptaq.lattice import Lattice, super_scales
from edgepress.compress.quantize.gptaq.rounded import Rounded


def upper_factor(hessian: torch.Tensor) -> torch.Tensor:
    """U with Uᵀ U = H⁻¹, float64, upper triangular; H positive definite."""
    upper: torch.Tensor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    return upper


def sweep(target: torch.Tensor, upper: torch.Tensor, importance: torch.Tensor, spec: Format, grid: Grid) -> Rounded:
    """Round a matrix.

    Args:
        target: float32, (rows, columns), W*.
        upper: float64, (columns, columns), U.
        importance: float32, (columns,), diagonal of H, for the super scales of the K types.
        spec: the format.
        grid: its levels.
    """
    state = Rounded.empty(spec, *target.shape)
    left, feedback = target.clone(), upper.float()
    for block in range(state.scale.shape[1]):
        columns = state.columns(block)
        lattice = _lattice(state, block, left, importance)
        found = solve_block(left[:, columns], factors_from_upper(upper[columns, columns]), grid, lattice)
        state.levels[:, columns] = found.levels
        state.scale[:, block], state.minimum[:, block] = found.scale, found.minimum
        left[:, columns.stop :] -= found.errors @ feedback[columns, columns.stop :]
    return state


def _lattice(state: Rounded, block: int, left: torch.Tensor, importance: torch.Tensor) -> Lattice:
    """The block's lattice; at the start of a super-block its super scales are chosen."""
    spec, start = state.spec, block * state.width
    if state.super_scale is not None and start % spec.block == 0:
        span = slice(start, start + spec.block)
        scale, minimum = super_scales(left[:, span], importance[span], spec)
        state.super_scale[:, start // spec.block] = scale
        if state.super_minimum is not None and minimum is not None:
            state.super_minimum[:, start // spec.block] = minimum
    return state.lattice(block)

"""All scales of a row at once, in closed form, for given integers.

A row of Ŵ is linear in its scales: ŵ = Σ_g c_g v_g, where v_g holds the integers of block g in its columns and zeros
elsewhere (and a constant there for the block's minimum). The c of least (ŵ - w) H (ŵ - w)ᵀ solves A c = b with
A_gh = v_g H v_hᵀ and b_g = v_g H wᵀ. For the K types the c are the super scales D and M, and the integers are s·q and
-t. The c are rounded to fp16, and a row keeps its old ones unless the rounded new ones lose less.

Source: the second stage of "two-stage group scales" (arXiv 2602.02126); here with minima and super scales too.
"""

from __future__ import annotations

import torch

from edgepress.compress.quantize.gptaq.rounded import Rounded

_VALUES_AT_ONCE = 1 << 20
_RIDGE = 1e-5  # relative; towards the present scales, where the integers say nothing


def refit(state: Rounded, target: torch.Tensor, hessian: torch.Tensor) -> None:
    """Refit the scales in place.

    Args:
        state: what was solved so far.
        target: float32, (rows, columns).
        hessian: float32, (columns, columns).
    """
    vectors, present = _basis(state)
    matrix, right = _normal_equations(vectors, present.shape[1], target @ hessian, hessian)
    ridge = _RIDGE * matrix.diagonal(dim1=1, dim2=2)
    parts = zip(*(part.split(_rows_at_once(present.shape[1])) for part in (matrix, right, ridge, present)), strict=True)
    solved = torch.cat([_solve(*part) for part in parts])
    rounded = solved.half().float()
    better = _objective(matrix, right, rounded) < _objective(matrix, right, present)
    if state.spec.positive:
        better &= (rounded > 0).all(1)
    _store(state, torch.where(better[:, None], rounded, present))


def _rows_at_once(unknowns: int) -> int:
    """Rows whose equations are solved together: in float64 those of all would be most of a layer's memory."""
    return max(1, _VALUES_AT_ONCE // unknowns**2)


def _solve(matrix: torch.Tensor, right: torch.Tensor, ridge: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """The c of least error plus ridge · (c - present)², float64, (rows, unknowns)."""
    damped = matrix.double()
    damped.diagonal(dim1=1, dim2=2).add_(ridge + torch.finfo(torch.float32).tiny)
    solved: torch.Tensor = torch.linalg.solve(damped, (right + ridge * present).double())
    return solved


def _basis(state: Rounded) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The vectors v, each (rows, columns), and the present coefficients, (rows, vectors · blocks)."""
    if state.super_scale is None:
        if not state.spec.has_min:
            return [state.levels], state.scale
        return [state.levels, torch.ones_like(state.levels)], torch.cat([state.scale, state.minimum], 1)
    scales, mins = (part.repeat_interleave(state.width, 1) for part in state.integers())
    if state.super_minimum is None:
        return [scales * state.levels], state.super_scale
    return [scales * state.levels, -mins], torch.cat([state.super_scale, state.super_minimum], 1)


def _normal_equations(
    vectors: list[torch.Tensor], unknowns: int, pressed_target: torch.Tensor, hessian: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A, (rows, unknowns, unknowns), and b, (rows, unknowns)."""
    rows, columns = pressed_target.shape
    blocks = unknowns // len(vectors)
    width = columns // blocks
    grouped = [vector.view(rows, blocks, width) for vector in vectors]
    matrix = torch.empty(rows, unknowns, unknowns)
    for index in range(unknowns):
        span = slice(index % blocks * width, (index % blocks + 1) * width)
        pressed = (grouped[index // blocks][:, index % blocks] @ hessian[span]).view(rows, blocks, width)
        matrix[:, index] = torch.cat([(pressed * other).sum(2) for other in grouped], 1)
    target = pressed_target.view(rows, blocks, width)
    return matrix, torch.cat([(target * vector).sum(2) for vector in grouped], 1)


def _objective(matrix: torch.Tensor, right: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
    """The error up to a constant, (rows,); infinite where a coefficient is."""
    value = torch.einsum("ri,rij,rj->r", coefficients, matrix, coefficients) - 2 * (coefficients * right).sum(1)
    return torch.where(torch.isfinite(value), value, torch.inf)


def _store(state: Rounded, coefficients: torch.Tensor) -> None:
    first, *second = coefficients.split(coefficients.shape[1] // (2 if state.spec.has_min else 1), 1)
    if state.super_scale is None:
        state.scale = first.contiguous()
        state.minimum = second[0].contiguous() if second else state.minimum
        return
    scales, mins = state.integers()
    per_super = state.spec.block // state.width
    state.super_scale, state.scale = first.contiguous(), first.repeat_interleave(per_super, 1) * scales
    if second:
        state.super_minimum = second[0].contiguous()
        state.minimum = -(state.super_minimum.repeat_interleave(per_super, 1) * mins)

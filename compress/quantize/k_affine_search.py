"""Activation-weighted search for q4_K and q5_K: scales, minima and codes of a super-block chosen together.

    minimise  Σ h (D·s·q - M·t - x)²        h = E[a²] · sqrt(σ² + x²),  σ² = 2 · mean of the super-block's x²

over q, the 6-bit s and t, and the fp16 D and M that ship; a is the input feature that x multiplies. For fixed D, M, s,
t the best q are the nearest levels, so E(D, M, s, t) below is always the error after rounding, never a linear guess.

1. Each sub-block alone, d and m real: a fan of scales with closed-form refits, as in ``k_affine``.
2. A few pairs of super scales D = max d / a, M = max m / b. With a = b = 63 weights that already lie on such a grid are
   found again; smaller a, b leave s and t room to grow. The sub-blocks take the nearest s and t, or a neighbour of s.
3. Descent: for fixed q, s, t, (D, M) solve a 2 × 2 least-squares problem; after rounding them to fp16 every sub-block
   searches its (s, t) neighbourhood, t centred where the weighted mean error vanishes. A step is kept, per super-block,
   where it lowers E.

Source: h and stage 1 are those of ``quantize_row_q4_K_impl`` and ``make_qkx3_quants`` in ggml-quants.c, which then
rounds s and t once to d and m. Stages 2 and 3 are where we depart: on three ffn_down layers of SmolLM2,
weighted by their own activations, E is 0.89 to 0.91 of ggml's for q4_K and 0.78 to 0.81 for q5_K.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.formats import Format
from edgepress.compress.quantize.grid import Floats, to_fp16
from edgepress.compress.quantize.k_tiles import FP16_TINY, Fit, copy_where, nearest_fp16

_LANES = 8
_TOP = np.float32(63)
_FAN = np.arange(-9, 10, dtype=np.float32) / np.float32(10)
_FREE_REFITS = 2
_TOPS = ((63, 63), *((a, b) for a in (62, 58, 54) for b in (60, 54)))
_START_REACH = (1, 0)
_DESCENT_REACHES = ((8, 6), (3, 2))  # how far s and t may move, in each round of the descent

# A least-squares problem with a smaller relative determinant is rounding noise.
_SOLVABLE = np.float32(1e-4)


class _Lattice(NamedTuple):
    """A solution. Integers are held as float32, super scales are fp16 numbers held as float32."""

    super_scale: Floats  # (supers,)
    super_min: Floats
    error: Floats
    scales: Floats  # (lanes,)
    mins: Floats


def search_tile(values: Floats, importance: Floats, spec: Format) -> Fit:
    """Solve one tile.

    Args:
        values: float32, (32, lanes).
        importance: float32, same shape, positive.
        spec: q4_K or q5_K.

    Raises:
        InputError: a super-block's scale or minimum beyond fp16's range.
    """
    tile = _Tile(values, importance, spec)
    scale, minimum = _fit_alone(tile)
    best = _start(tile, scale, minimum, _TOPS[0])
    for tops in _TOPS[1:]:
        _keep_better(best, _start(tile, scale, minimum, tops))
    for reach in _DESCENT_REACHES:
        super_scale, super_min = _refit_supers(tile, best)
        _keep_better(best, _walk(tile, super_scale, super_min, best.scales, best.mins, reach))
    codes = tile.codes(_spread(best.super_scale) * best.scales, _spread(best.super_min) * best.mins)
    return Fit(codes, best.scales, best.super_scale, best.mins, best.super_min)


class _Tile:
    """A tile's values x and weights h, with the sums and buffers that every trial needs."""

    def __init__(self, values: Floats, importance: Floats, spec: Format) -> None:
        self.x = values
        self.top = np.float32(len(spec.levels) - 1)
        self._residual, self._level, self._scaled = (np.empty_like(values) for _ in range(3))
        self.h = np.multiply(values, values)
        self.h += _spread(_per_super(self.h.mean(axis=0)).mean(axis=1) * np.float32(2))
        np.sqrt(self.h, out=self.h)
        self.h *= importance
        self.sum_h: Floats = self.h.sum(axis=0)
        self.sum_hx: Floats = np.einsum("ij,ij->j", self.h, values)

    def codes(self, scale: Floats, minimum: Floats) -> Floats:
        """Nearest codes, (32, lanes); a buffer that the next call overwrites."""
        np.add(self.x, minimum, out=self._level)
        self._level *= np.reciprocal(scale)
        np.rint(self._level, out=self._level)
        return np.clip(self._level, 0, self.top, out=self._level)

    def moments(self, codes: Floats) -> tuple[Floats, Floats, Floats]:
        """Σhq, Σhq², Σhqx of each lane."""
        weighted = np.multiply(self.h, codes, out=self._residual)
        return (
            weighted.sum(axis=0),
            np.einsum("ij,ij->j", weighted, codes),
            np.einsum("ij,ij->j", weighted, self.x),
        )

    def take_scale(self, scale: Floats) -> None:
        """Fix the scale for ``balanced_minimum`` and ``error``."""
        self._step = scale
        self._per_step = np.reciprocal(scale)
        np.multiply(self.x, self._per_step, out=self._scaled)

    def balanced_minimum(self, minimum: Floats) -> Floats:
        """The minimum at which the codes taken with ``minimum`` would have no weighted mean error."""
        self._round(minimum)
        sum_hq: Floats = np.einsum("ij,ij->j", self.h, self._level)
        balanced: Floats = (self._step * sum_hq - self.sum_hx) / self.sum_h
        return balanced

    def error(self, minimum: Floats) -> Floats:
        """E of each lane, codes being the nearest."""
        self._round(minimum)
        self._residual -= self._level
        error: Floats = np.einsum("ij,ij,ij->j", self._residual, self._residual, self.h)
        error *= self._step
        error *= self._step
        return error

    def _round(self, minimum: Floats) -> None:
        np.add(self._scaled, minimum * self._per_step, out=self._residual)
        np.rint(self._residual, out=self._level)
        np.clip(self._level, 0, self.top, out=self._level)


def _fit_alone(tile: _Tile) -> tuple[Floats, Floats]:
    """Stage 1: real-valued scale and minimum of each lane."""
    low = np.minimum(tile.x.min(axis=0), np.float32(0))
    span = np.maximum(tile.x.max(axis=0) - low, FP16_TINY)
    scale, minimum = span / tile.top, -low
    # These bound what comes below: weights too large for the format end here.
    to_fp16(scale / _TOP, "scale")
    to_fp16(minimum / _TOP, "minimum")
    tile.take_scale(scale)
    error = tile.error(minimum)
    for offset in _FAN:
        _try_fit(tile, tile.codes(span / (tile.top + offset), -low), error, scale, minimum)
    for _ in range(_FREE_REFITS):
        _try_fit(tile, tile.codes(scale, minimum), error, scale, minimum)
    return scale, minimum


def _try_fit(tile: _Tile, codes: Floats, error: Floats, scale: Floats, minimum: Floats) -> None:
    """Fit scale and minimum to codes by weighted least squares; keep them in place where the error falls."""
    sum_hq, sum_hqq, sum_hqx = tile.moments(codes)
    square = tile.sum_h * sum_hqq
    determinant = square - sum_hq * sum_hq
    solvable = determinant > _SOLVABLE * square
    fitted: Floats = np.divide(tile.sum_h * sum_hqx - tile.sum_hx * sum_hq, determinant)
    fitted_min: Floats = np.divide(sum_hq * sum_hqx - sum_hqq * tile.sum_hx, determinant)
    np.copyto(fitted, sum_hqx / sum_hqq, where=fitted_min < 0)
    np.maximum(fitted_min, np.float32(0), out=fitted_min)
    tile.take_scale(fitted)
    fitted_error = tile.error(fitted_min)
    better = solvable & (fitted > 0) & (fitted_error < error)
    copy_where(better, (fitted_error, fitted, fitted_min), (error, scale, minimum))


def _start(tile: _Tile, scale: Floats, minimum: Floats, tops: tuple[int, int]) -> _Lattice:
    """Stage 2: the super scales that give the largest scale and minimum these integers, and the nearest s and t."""
    super_scale = nearest_fp16(_per_super(scale).max(axis=1) / np.float32(tops[0]))
    super_min = nearest_fp16(_per_super(minimum).max(axis=1) / np.float32(tops[1]))
    scales = np.clip(np.rint(scale / _spread(super_scale)), 1, _TOP)
    mins = np.clip(np.rint(minimum / _spread(super_min)), 0, _TOP)
    return _walk(tile, super_scale, super_min, scales, mins, _START_REACH)


def _walk(
    tile: _Tile, super_scale: Floats, super_min: Floats, scales: Floats, mins: Floats, reach: tuple[int, int]
) -> _Lattice:
    """The best (s, t) of each lane within ``reach`` of where it stands, for given super scales."""
    step, step_min = _spread(super_scale), _spread(super_min)
    best_scales, best_mins = scales.copy(), mins.copy()
    tile.take_scale(step * scales)
    error = tile.error(step_min * mins)
    for offset in range(-reach[0], reach[0] + 1):
        trial = np.clip(scales + np.float32(offset), 1, _TOP)
        tile.take_scale(step * trial)
        centre = np.rint(tile.balanced_minimum(step_min * mins) / step_min)
        for offset_min in range(-reach[1], reach[1] + 1):
            trial_min = np.clip(centre + np.float32(offset_min), 0, _TOP)
            trial_error = tile.error(step_min * trial_min)
            copy_where(trial_error < error, (trial_error, trial, trial_min), (error, best_scales, best_mins))
    return _Lattice(super_scale, super_min, _per_super(error).sum(axis=1), best_scales, best_mins)


def _refit_supers(tile: _Tile, at: _Lattice) -> tuple[Floats, Floats]:
    """Least-squares D and M for the codes, scales and minima of a solution, rounded to fp16."""
    s, t = at.scales, at.mins
    codes = tile.codes(_spread(at.super_scale) * s, _spread(at.super_min) * t)
    sum_hq, sum_hqq, sum_hqx = tile.moments(codes)
    ss, st, tt = (_per_super(v).sum(axis=1) for v in (s * s * sum_hqq, s * t * sum_hq, t * t * tile.sum_h))
    sx, tx = (_per_super(v).sum(axis=1) for v in (s * sum_hqx, t * tile.sum_hx))
    determinant = ss * tt - st * st
    super_scale, super_min = (tt * sx - st * tx) / determinant, (st * sx - ss * tx) / determinant
    solved = (determinant > _SOLVABLE * ss * tt) & (super_scale > 0) & (super_min > 0)
    return (
        nearest_fp16(np.where(solved, super_scale, at.super_scale)),
        nearest_fp16(np.where(solved, super_min, at.super_min)),
    )


def _keep_better(best: _Lattice, trial: _Lattice) -> None:
    better = trial.error < best.error
    copy_where(better, trial[:3], best[:3])
    copy_where(_spread(better), trial[3:], best[3:])


def _spread(per_super: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(per_super, _LANES)


def _per_super(lanes: Floats) -> Floats:
    return lanes.reshape(-1, _LANES)

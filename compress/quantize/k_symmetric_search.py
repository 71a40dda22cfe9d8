"""Activation-weighted search for q6_K: scales and codes of a super-block chosen together.

    minimise  Σ h (D·s·q - x)²        h = E[a²], a being the input feature that x multiplies

over q, the 8-bit signed s, and the fp16 D that ships. For fixed D and s the best q are the nearest levels, so E(D, s)
below is always the error after rounding.

1. Each sub-block alone, d real: a fan of scales of both signs with closed-form refits; the gain (Σhqx)²/Σhq² decides.
2. A few super scales D = -e / a, e being the d of largest magnitude and a < 128, so that s has room to grow. The
   sub-blocks take the nearest s or a neighbour.
3. Descent: for fixed q and s, D = Σ s·hqx / Σ s²·hq²; after rounding it to fp16, every sub-block searches a wide
   neighbourhood of its s, and of -s, since the grid reaches further down than up. With 16 values on 64 levels the
   error is ragged in s, and a minimum far from the start is often the deepest. A step is kept, per super-block, where
   it lowers E. Last comes D = -e / 128, with which weights that already lie on such a grid are found again.

Source: h and stage 1 are those of ``quantize_row_q6_K_impl`` and ``make_qx_quants`` in ggml-quants.c (q6_K has no
emphasis on large weights there), which then rounds s once to d with the largest at -128. Stages 2 and 3 are where we
depart: on three ffn_down layers of SmolLM2, weighted by their own activations, E is 0.75 to 0.80 of ggml's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgepress.compress.quantize.grid import Floats, to_fp16
from edgepress.compress.quantize.k_tiles import FP16_TINY, Fit, copy_where, nearest_fp16

_LANES = 16
_HALF = np.float32(32)

# Where the extreme value lands, in levels: around the lower end of the grid, and around the upper one.
_FAN = (*(-(32 + 0.1 * f) for f in range(-9, 10)), *(31 + 0.1 * f for f in range(-5, 10, 2)))
_TOPS = (112, 109, 106)
_START_OFFSETS = (-1, 0, 1)
_DESCENT_OFFSETS = (range(-16, 49), range(-8, 9))


class _Lattice(NamedTuple):
    """A solution. Integers are held as float32, super scales are fp16 numbers held as float32."""

    super_scale: Floats  # (supers,)
    error: Floats
    scales: Floats  # (lanes,)


def search_tile(values: Floats, importance: Floats) -> Fit:
    """Solve one tile.

    Args:
        values: float32, (16, lanes).
        importance: float32, same shape, positive.

    Raises:
        InputError: a super-block's scale beyond fp16's range.
    """
    tile = _Tile(values, importance)
    scale = _fit_alone(tile)
    best = _start(tile, scale, _TOPS[0])
    for top in _TOPS[1:]:
        _keep_better(best, _start(tile, scale, top))
    for offsets in _DESCENT_OFFSETS:
        super_scale = _refit_supers(tile, best)
        _keep_better(best, _walk(tile, super_scale, best.scales, offsets, signs=(1, -1)))
    _keep_better(best, _start(tile, scale, 128))
    codes = tile.codes(np.reciprocal(_spread(best.super_scale) * best.scales))
    return Fit(codes + _HALF, best.scales, best.super_scale)


class _Tile:
    """A tile's values x and weights h, with the buffers that every trial needs."""

    def __init__(self, values: Floats, importance: Floats) -> None:
        self.x, self.h = values, importance
        self._residual, self._level = np.empty_like(values), np.empty_like(values)

    def codes(self, per_step: Floats) -> Floats:
        """Nearest levels -32…31, (16, lanes); a buffer that the next call overwrites."""
        np.multiply(self.x, per_step, out=self._residual)
        np.rint(self._residual, out=self._level)
        return np.clip(self._level, -_HALF, _HALF - 1, out=self._level)

    def moments(self, codes: Floats) -> tuple[Floats, Floats]:
        """Σhqx and Σhq² of each lane."""
        weighted = np.multiply(self.h, codes, out=self._residual)
        return np.einsum("ij,ij->j", weighted, self.x), np.einsum("ij,ij->j", weighted, codes)

    def error(self, step: Floats) -> Floats:
        """E of each lane, codes being the nearest."""
        self._residual -= self.codes(np.reciprocal(step))
        error: Floats = np.einsum("ij,ij,ij->j", self._residual, self._residual, self.h)
        error *= step
        error *= step
        return error


def _fit_alone(tile: _Tile) -> Floats:
    """Stage 1: real-valued scale of each lane, never zero."""
    low, high = tile.x.min(axis=0), tile.x.max(axis=0)
    extreme = np.where(high > -low, high, low)
    extreme[extreme == 0] = FP16_TINY
    scale: Floats = extreme / -_HALF
    # This bounds what comes below: weights too large for the format end here.
    to_fp16(scale / np.float32(128), "scale")
    gain = np.zeros_like(scale)
    for target in _FAN:
        cross, norm = tile.moments(tile.codes(np.float32(target) / extreme))
        fitted = cross / norm
        fitted_gain = fitted * cross
        copy_where(fitted_gain > gain, (fitted_gain, fitted), (gain, scale))
    return scale


def _start(tile: _Tile, scale: Floats, top: int) -> _Lattice:
    """Stage 2: the super scale that gives the largest scale -top, and the s nearest to ``scale`` or beside it."""
    grouped = _per_super(scale)
    extreme = grouped[np.arange(len(grouped)), np.abs(grouped).argmax(axis=1)]
    super_scale = nearest_fp16(extreme / np.float32(-top))  # negative s reach further
    scales = np.rint(scale / _spread(super_scale))
    np.copyto(scales, np.float32(1), where=scales == 0)
    return _walk(tile, super_scale, np.clip(scales, -128, 127), _START_OFFSETS)


def _walk(
    tile: _Tile, super_scale: Floats, scales: Floats, offsets: Iterable[int], signs: Iterable[int] = (1,)
) -> _Lattice:
    """The best s of each lane at the given offsets of magnitude, for a given super scale."""
    step = _spread(super_scale)
    best_scales, error = scales.copy(), tile.error(step * scales)
    magnitude, sign = np.abs(scales), np.sign(scales)
    for offset in offsets:
        moved = np.maximum(magnitude + np.float32(offset), 1) * sign
        for flip in signs:
            trial = np.clip(moved * np.float32(flip), -128, 127)
            trial_error = tile.error(step * trial)
            copy_where(trial_error < error, (trial_error, trial), (error, best_scales))
    return _Lattice(super_scale, _per_super(error).sum(axis=1), best_scales)


def _refit_supers(tile: _Tile, at: _Lattice) -> Floats:
    """Least-squares D for the codes and scales of a solution, rounded to fp16."""
    cross, norm = tile.moments(tile.codes(np.reciprocal(_spread(at.super_scale) * at.scales)))
    solved = _per_super(at.scales * cross).sum(axis=1) / _per_super(at.scales * at.scales * norm).sum(axis=1)
    return nearest_fp16(np.where(solved * at.super_scale > 0, solved, at.super_scale))


def _keep_better(best: _Lattice, trial: _Lattice) -> None:
    better = trial.error < best.error
    copy_where(better, trial[:2], best[:2])
    copy_where(_spread(better), trial[2:], best[2:])


def _spread(per_super: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(per_super, _LANES)


def _per_super(lanes: Floats) -> Floats:
    return lanes.reshape(-1, _LANES)

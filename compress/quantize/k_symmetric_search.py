"""Activation-weighted search for q6_K, q3_K and iq4_xs: scales and codes of a super-block chosen together.

    minimise  Σ h (D·s·l - x)²        h = E[a²], a being the input feature that x multiplies; under 6-bit scales
                                      h = E[a²] · sqrt(2·mean x² + x²), the mean being over the super-block

over the levels l, the signed integer s, and the fp16 D that ships. For fixed D and s the best l are the nearest levels,
so E(D, s) below is always the error after rounding.

1. Each sub-block alone, d real: a fan of scales of both signs with closed-form refits; the gain (Σhlx)²/Σhl² decides.
2. A few super scales D = -e / a, e being the d of largest magnitude and a within the range of s, so that s has room to
   grow. The sub-blocks take the nearest s or a neighbour.
3. Descent: for fixed l and s, D = Σ s·hlx / Σ s²·hl²; after rounding it to fp16, every sub-block searches a wide
   neighbourhood of its s, and of -s, since the grid reaches further down than up. With 16 values on 64 levels the
   error is ragged in s, and a minimum far from the start is often the deepest. A step is kept, per super-block, where
   it lowers E. Last comes the D that puts e on the end of the range of s, with which weights that already lie on such
   a grid are found again.

A sub-block for which that is no worse gets s = 0: iq4_xs has no level 0.

Source: h and stage 1 are those of ``quantize_row_*_impl`` and ``make_qx_quants`` in ggml-quants.c (which have no
emphasis on large weights for q6_K); ggml then rounds s once to d with the largest at the end of its range. Stages 2 and
3 are where we depart: on three ffn_down layers of SmolLM2, weighted by their own activations, E of q6_K is 0.75 to 0.80
of ggml's. On random weights of four kinds E is 0.77 to 0.94 of ggml's for iq4_xs and 0.86 to 0.99 for q3_K.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from edgepress.artifact.formats import Format
from edgepress.compress.quantize.grid import Floats, nearest_levels, reciprocal, to_fp16
from edgepress.compress.quantize.k_tiles import FP16_TINY, ZERO, Fit, copy_where, extreme_of_lanes, nearest_fp16


class _Plan(NamedTuple):
    """What is tried, by the width of the integer scales."""

    emphasis: bool
    tops: tuple[int, ...]  # where the largest scale may start, besides the end of the range
    start_offsets: tuple[int, ...]
    descent_offsets: tuple[range, ...]


_PLANS = {
    8: _Plan(False, (112, 109, 106), (-1, 0, 1), (range(-16, 49), range(-8, 9))),
    6: _Plan(True, tuple(range(31, 14, -2)), (-2, -1, 0, 1, 2), (range(-12, 25), range(-6, 7))),
}


class _Lattice(NamedTuple):
    """A solution. Integers are held as float32, super scales are fp16 numbers held as float32."""

    super_scale: Floats  # (supers,)
    error: Floats
    scales: Floats  # (lanes,)


def search_tile(values: Floats, importance: Floats, spec: Format) -> Fit:
    """Solve one tile.

    Args:
        values: float32, (sub_block, lanes).
        importance: float32, same shape, positive.
        spec: q6_K, q3_K or iq4_xs.

    Raises:
        InputError: a super-block's scale beyond fp16's range.
    """
    tile, plan = _Tile(values, importance, spec), _PLANS[spec.scale_bits]
    scale = _fit_alone(tile)
    best = _start(tile, scale, plan.tops[0])
    for top in plan.tops[1:]:
        _keep_better(tile, best, _start(tile, scale, top))
    for offsets in plan.descent_offsets:
        super_scale = _refit_supers(tile, best)
        _keep_better(tile, best, _walk(tile, super_scale, best.scales, offsets, signs=(1, -1)))
    _keep_better(tile, best, _start(tile, scale, -tile.lowest))
    return Fit(tile.codes(tile.spread(best.super_scale) * best.scales), best.scales, best.super_scale)


class _Tile:
    """A tile's values x and weights h, with the buffers that every trial needs."""

    def __init__(self, values: Floats, importance: Floats, spec: Format) -> None:
        self.x, self.h, self.spec = values, importance, spec
        self.lanes = spec.block // spec.sub_block  # per super-block
        self.lowest, self.highest = spec.scale_range
        if _PLANS[spec.scale_bits].emphasis:
            squared = values * values
            mean = self.per_super(squared.mean(axis=0)).mean(axis=1)
            self.h = importance * np.sqrt(squared + np.float32(2) * self.spread(mean))
        self.silence: Floats = np.einsum("ij,ij,ij->j", values, values, self.h)
        self._residual, self._level = np.empty_like(values), np.empty_like(values)

    def levels(self, per_step: Floats) -> Floats:
        """Nearest levels, (sub_block, lanes); a buffer that the next call overwrites."""
        np.multiply(self.x, per_step, out=self._residual)
        return nearest_levels(self._residual, self.spec, out=self._level)

    def codes(self, step: Floats) -> Floats:
        """Codes of the nearest levels, (sub_block, lanes)."""
        return np.searchsorted(self.spec.level_array(), self.levels(reciprocal(step))).astype(np.float32)

    def moments(self, levels: Floats) -> tuple[Floats, Floats]:
        """Σhlx and Σhl² of each lane."""
        weighted = np.multiply(self.h, levels, out=self._residual)
        return np.einsum("ij,ij->j", weighted, self.x), np.einsum("ij,ij->j", weighted, levels)

    def error(self, step: Floats) -> Floats:
        """E of each lane, levels being the nearest; without meaning where the step is 0."""
        self._residual -= self.levels(reciprocal(step))
        error: Floats = np.einsum("ij,ij,ij->j", self._residual, self._residual, self.h)
        error *= step
        error *= step
        return error

    def spread(self, per_super: Floats) -> Floats:
        """(supers,) → (lanes,)."""
        return np.repeat(per_super, self.lanes)

    def per_super(self, lanes: Floats) -> Floats:
        """(lanes,) → (supers, lanes per super-block)."""
        return lanes.reshape(-1, self.lanes)


def _fit_alone(tile: _Tile) -> Floats:
    """Stage 1: real-valued scale of each lane, never zero."""
    low, high = tile.spec.levels[0], tile.spec.levels[-1]
    extreme = extreme_of_lanes(tile.x)
    extreme[np.abs(extreme) < ZERO] = FP16_TINY
    scale: Floats = extreme / np.float32(low)
    # This bounds what comes below: weights too large for the format end here.
    to_fp16(scale / np.float32(tile.lowest), "scale")
    gain = np.zeros_like(scale)
    for target in _targets(low, high, (high - low) / (len(tile.spec.levels) - 1)):
        cross, norm = tile.moments(tile.levels(np.float32(target) / extreme))
        fitted = cross / norm
        fitted_gain = fitted * cross
        copy_where(fitted_gain > gain, (fitted_gain, fitted), (gain, scale))
    return scale


def _targets(low: float, high: float, spacing: float) -> Iterable[float]:
    """Where the extreme value lands, in levels: around the lower end of the grid, and around the upper one."""
    yield from (low - 0.1 * spacing * step for step in range(-9, 10))
    yield from (high + 0.1 * spacing * step for step in range(-5, 10, 2))


def _start(tile: _Tile, scale: Floats, top: int) -> _Lattice:
    """Stage 2: the super scale that gives the largest scale -top, and the s nearest to ``scale`` or beside it."""
    grouped = tile.per_super(scale)
    extreme = grouped[np.arange(len(grouped)), np.abs(grouped).argmax(axis=1)]
    super_scale = nearest_fp16(extreme / np.float32(-top))  # negative s reach further
    scales = np.rint(scale / tile.spread(super_scale))
    np.copyto(scales, np.float32(1), where=scales == 0)
    offsets = _PLANS[tile.spec.scale_bits].start_offsets
    return _walk(tile, super_scale, np.clip(scales, tile.lowest, tile.highest), offsets)


def _walk(
    tile: _Tile, super_scale: Floats, scales: Floats, offsets: Iterable[int], signs: Iterable[int] = (1,)
) -> _Lattice:
    """The best s of each lane at the given offsets of magnitude, for a given super scale."""
    step = tile.spread(super_scale)
    best_scales, error = scales.copy(), np.where(scales == 0, tile.silence, tile.error(step * scales))
    magnitude, sign = np.abs(scales), np.where(scales < 0, np.float32(-1), np.float32(1))
    for offset in offsets:
        moved = np.maximum(magnitude + np.float32(offset), 1) * sign
        for flip in signs:
            trial = np.clip(moved * np.float32(flip), tile.lowest, tile.highest)
            trial_error = tile.error(step * trial)
            copy_where(trial_error < error, (trial_error, trial), (error, best_scales))
    copy_where(tile.silence <= error, (tile.silence, np.zeros_like(error)), (error, best_scales))
    return _Lattice(super_scale, tile.per_super(error).sum(axis=1), best_scales)


def _refit_supers(tile: _Tile, at: _Lattice) -> Floats:
    """Least-squares D for the levels and scales of a solution, rounded to fp16."""
    cross, norm = tile.moments(tile.levels(reciprocal(tile.spread(at.super_scale) * at.scales)))
    solved = tile.per_super(at.scales * cross).sum(axis=1) / tile.per_super(at.scales * at.scales * norm).sum(axis=1)
    return nearest_fp16(np.where(solved * at.super_scale > 0, solved, at.super_scale))


def _keep_better(tile: _Tile, best: _Lattice, trial: _Lattice) -> None:
    better = trial.error < best.error
    copy_where(better, trial[:2], best[:2])
    copy_where(np.repeat(better, tile.lanes), trial[2:], best[2:])

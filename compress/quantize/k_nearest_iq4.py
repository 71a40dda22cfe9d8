"""ggml's own rounding to iq4_xs.

For each sub-block, with e its value of largest magnitude and weights u = x², try the codes of the levels nearest to
t·x/e for t = 127 and t = -134, -133 … -120. Refitting the scale to d = Σuxl / Σul², l being the levels, lowers the
weighted error by (Σuxl)² / Σul²; the d for which this is largest stays. The d of largest magnitude gets s = -32, which
fixes D; the other s round d/D. The codes are taken again for D·s, all this before D is rounded to fp16.

Source: ``quantize_row_iq4_nl_impl`` in ggml-quants.c.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgepress.artifact.formats import Format
from edgepress.compress.quantize.grid import Floats, encode, nearest_levels, reciprocal, to_fp16
from edgepress.compress.quantize.k_tiles import ZERO, Fit, copy_where, extreme_of_lanes

_LANES = 8
_TRIES = 7


def round_tile(values: Floats, spec: Format) -> Fit:
    """Round one tile, float32, (32, lanes).

    Raises:
        InputError: a super-block's scale beyond fp16's range.
    """
    scale = _fan(values, spec)
    grouped = scale.reshape(-1, _LANES)
    extreme = grouped[np.arange(len(grouped)), np.abs(grouped).argmax(axis=1)]
    lowest, highest = spec.scale_range
    super_scale = extreme / np.float32(lowest)
    shipped = to_fp16(super_scale, "scale").astype(np.float32)
    scales = np.clip(np.rint(np.repeat(reciprocal(super_scale), _LANES) * scale), lowest, highest)
    step = np.repeat(super_scale, _LANES) * scales
    codes = encode(values * reciprocal(step), spec).astype(np.float32)
    return Fit(codes, scales, shipped)


def _fan(x: Floats, spec: Format) -> Floats:
    """Scale of each lane; 0 for a zero lane."""
    extreme = extreme_of_lanes(x)
    zero = np.abs(extreme) < ZERO
    extreme[zero] = 1
    squared = x * x
    level, product = np.empty_like(x), np.empty_like(x)
    scale, gain = np.zeros_like(extreme), np.zeros_like(extreme)
    for index, multiplier in enumerate(_multipliers(extreme, np.float32(spec.levels[0]))):
        nearest_levels(np.multiply(x, multiplier, out=product), spec, out=level)
        np.multiply(squared, level, out=product)
        norm = np.add.reduce(product * level, axis=0)
        cross = np.add.reduce(np.multiply(product, x, out=product), axis=0)
        better = (norm > 0) & (cross * cross > gain * norm) | (index == 0)
        fitted = cross / norm
        copy_where(better, (fitted, fitted * cross), (scale, gain))
    # Where squares overflow there is no fit; the plain scale is out of fp16's range as well, and says so.
    np.copyto(scale, extreme / np.float32(spec.levels[0]), where=~np.isfinite(scale))
    scale[zero] = 0
    return scale


def _multipliers(extreme: Floats, lowest: np.float32) -> Iterator[Floats]:
    first: Floats = np.float32(1) / (extreme / -lowest)
    yield first
    for step in range(-_TRIES, _TRIES + 1):
        multiplier: Floats = (lowest + np.float32(step)) / extreme
        yield multiplier

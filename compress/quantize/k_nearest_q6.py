"""ggml's own rounding to q6_K.

For each sub-block, with e its value of largest magnitude and weights u = x², try the codes q = round(-(32 + f)·x/e) for
f = 0, ±0.1 … ±0.9. Refitting the scale to d = Σuxq / Σuq² lowers the weighted error by (Σuxq)² / Σuq²; the codes for
which this is largest stay. The d of largest magnitude gets s = -128, which fixes D; the other s round d/D as it was
before D's rounding to fp16, and the codes are taken again on the grid that ships.

Source: ``quantize_row_q6_K_ref`` and ``make_qx_quants`` in ggml-quants.c.
"""

from __future__ import annotations

import numpy as np

from edgepress.artifact.formats import Format
from edgepress.compress.quantize.grid import Floats, to_fp16
from edgepress.compress.quantize.k_tiles import ZERO, Fit, copy_where, extreme_of_lanes

_LANES = 16
_HALF = np.float32(32)


def round_tile(values: Floats, spec: Format) -> Fit:
    """Round one tile, float32, (16, lanes).

    Raises:
        InputError: a super-block's scale beyond fp16's range.
    """
    scale, multiplier = _fan(values)
    super_scale, scales = _eight_bits(scale)
    step = np.repeat(super_scale, _LANES) * scales
    codes = values / step
    # ggml leaves the fan's codes where the step is zero; they stand for nothing, but they are in the file.
    dead = np.flatnonzero(step == 0)
    codes[:, dead] = values[:, dead] * multiplier[dead]
    _round(codes)
    codes += _HALF
    # Zero sub-blocks, and super-blocks that are zero as a whole, have their codes cleared instead.
    cleared = (multiplier == 0) | np.repeat(super_scale == 0, _LANES) & (np.repeat(_largest(scale), _LANES) < ZERO)
    codes[:, cleared] = 0
    return Fit(codes, scales, super_scale)


def _eight_bits(fitted: Floats) -> tuple[Floats, Floats]:
    """Per-lane scales as fp16 super scale times integers of 8 bits, the one of largest magnitude being -128."""
    grouped = fitted.reshape(-1, _LANES)
    place = np.abs(grouped).argmax(axis=1)
    extreme = grouped[np.arange(len(grouped)), place]
    inverse = np.where(np.abs(extreme) < ZERO, np.float32(0), np.float32(-128) / extreme)
    super_scale = np.where(inverse == 0, np.float32(0), 1 / inverse)
    scales = np.rint(np.repeat(inverse, _LANES) * fitted)
    return to_fp16(super_scale, "scale").astype(np.float32), np.minimum(scales, np.float32(127))


def _largest(lanes: Floats) -> Floats:
    largest: Floats = np.abs(lanes).reshape(-1, _LANES).max(axis=1)
    return largest


def _fan(x: Floats) -> tuple[Floats, Floats]:
    """Scale of each lane, and the multiplier that gave the codes it was fitted to; both 0 for a zero lane."""
    extreme = extreme_of_lanes(x)
    squared = x * x
    cubed = squared * x
    level, product = np.empty_like(x), np.empty_like(x)
    scale, gain, multiplier = np.zeros_like(extreme), np.zeros_like(extreme), np.zeros_like(extreme)
    for index in (0, *range(-9, 0), *range(1, 10)):
        trial = -(_HALF + np.float32(0.1) * np.float32(index)) / extreme
        np.multiply(x, trial, out=level)
        _round(level)
        cross = np.add.reduce(np.multiply(cubed, level, out=product), axis=0)
        np.multiply(squared, level, out=product)
        norm = np.add.reduce(np.multiply(product, level, out=product), axis=0)
        better = (norm > 0) & (cross * cross > gain * norm)
        if index == 0:
            better[:] = True
        fitted = np.where(norm > 0, cross / norm, np.float32(0))
        copy_where(better, (fitted, fitted * cross, trial), (scale, gain, multiplier))
    # Where squares overflow there is no fit; the plain scale is out of fp16's range as well, and says so.
    np.copyto(scale, extreme / -_HALF, where=~np.isfinite(scale))
    zero = np.abs(extreme) < ZERO
    scale[zero] = multiplier[zero] = 0
    return scale, multiplier


def _round(scaled: Floats) -> None:
    np.rint(scaled, out=scaled)
    np.clip(scaled, -_HALF, _HALF - 1, out=scaled)

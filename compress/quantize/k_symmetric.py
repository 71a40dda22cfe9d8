"""q6_K: super-blocks of 256 values in 16 sub-blocks, each with an 8-bit signed scale.

    w = D·s·q        q ∈ -32…31 per value;  s ∈ -128…127 per sub-block of 16;  D fp16 per super-block

*Nearest* is ggml's rule without an importance matrix, operation for operation in float32, so that the file is the one
that llama-quantize writes. For each sub-block, with e its value of largest magnitude and weights u = x², try the codes
q = round(-(32 + f)·x/e) for f = 0, ±0.1 … ±0.9. Refitting the scale to d = Σuxq / Σuq² lowers the weighted error by
(Σuxq)² / Σuq²; the codes for which this is largest stay. The d of largest magnitude gets s = -128, which fixes D; the
other s round d/D as it was before D's rounding to fp16, and the codes are taken again on the grid that ships.

Source: ``quantize_row_q6_K_ref`` and ``make_qx_quants`` in ggml-quants.c. A compiler that fuses multiplications and
additions gives ggml other last bits than ours; x86-64 builds of llama-cpp-python do not. *Search* is in
``k_symmetric_search``.
"""

from __future__ import annotations

import numpy as np

from edgepress.artifact.formats import get_format
from edgepress.artifact.quantized import QuantizedTensor
from edgepress.compress.quantize.grid import Floats, to_fp16
from edgepress.compress.quantize.k_symmetric_search import search_tile
from edgepress.compress.quantize.k_tiles import Fit, copy_where, solve_in_tiles, tile_importance

_LANES = 16
_HALF = np.float32(32)

# ggml takes smaller extremes and scales for zero.
_ZERO = np.float32(1e-15)


def quantize_k_symmetric(weight: Floats, format: str, importance: Floats | None, *, search: bool) -> QuantizedTensor:
    """Quantize a matrix to q6_K.

    Args:
        weight: float32, (rows, columns), columns a multiple of 256.
        format: q6_K.
        importance: float32, (columns,), mean square of each input feature; None weighs all alike. Unused by nearest.
        search: minimise the weighted error; otherwise round by ggml's rule.

    Raises:
        InputError: a value that is not finite, or a super-block's scale beyond fp16's range.
    """
    spec = get_format(format)
    # Zero sub-blocks divide by zero on the way; what comes of that is never kept.
    with np.errstate(all="ignore"):
        if not search:
            return solve_in_tiles(weight, spec, lambda values, part: _nearest(values))
        important = tile_importance(importance, weight.shape[1], spec)
        return solve_in_tiles(weight, spec, lambda values, part: search_tile(values, important(part)))


def _nearest(values: Floats) -> Fit:
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
    cleared = (multiplier == 0) | np.repeat(super_scale == 0, _LANES) & (np.repeat(_largest(scale), _LANES) < _ZERO)
    codes[:, cleared] = 0
    return Fit(codes, scales, super_scale)


def _eight_bits(fitted: Floats) -> tuple[Floats, Floats]:
    """Per-lane scales as fp16 super scale times integers of 8 bits, the one of largest magnitude being -128."""
    grouped = fitted.reshape(-1, _LANES)
    place = np.abs(grouped).argmax(axis=1)
    extreme = grouped[np.arange(len(grouped)), place]
    inverse = np.where(np.abs(extreme) < _ZERO, np.float32(0), np.float32(-128) / extreme)
    super_scale = np.where(inverse == 0, np.float32(0), 1 / inverse)
    scales = np.rint(np.repeat(inverse, _LANES) * fitted)
    return to_fp16(super_scale, "scale").astype(np.float32), np.minimum(scales, np.float32(127))


def _largest(lanes: Floats) -> Floats:
    largest: Floats = np.abs(lanes).reshape(-1, _LANES).max(axis=1)
    return largest


def _fan(x: Floats) -> tuple[Floats, Floats]:
    """Scale of each lane, and the multiplier that gave the codes it was fitted to; both 0 for a zero lane."""
    extreme = _signed_extreme(x)
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
    zero = np.abs(extreme) < _ZERO
    scale[zero] = multiplier[zero] = 0
    return scale, multiplier


def _signed_extreme(x: Floats) -> Floats:
    """The first value of largest magnitude of each lane."""
    low, high = x.min(axis=0), x.max(axis=0)
    extreme: Floats = np.where(high > -low, high, low)
    tied = np.flatnonzero(high == -low)
    place = np.abs(x[:, tied]).argmax(axis=0)
    extreme[tied] = x[place, tied]
    return extreme


def _round(scaled: Floats) -> None:
    np.rint(scaled, out=scaled)
    np.clip(scaled, -_HALF, _HALF - 1, out=scaled)

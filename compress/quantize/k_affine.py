"""q4_K and q5_K: super-blocks of 256 values in 8 sub-blocks, each with a 6-bit scale and a 6-bit minimum.

    w = D·s·q - M·t        q ∈ 0…2^b-1 per value;  s, t ∈ 0…63 per sub-block of 32;  D, M fp16 per super-block

*Nearest* is ggml's rule without an importance matrix, operation for operation in float32, so that the file is the one
that llama-quantize writes. For each sub-block with values x, weights u = rms(x) + |x| and top code n = 2^b-1, begin
with m = -min(x, 0) and d = (max x + m)/n. Then go through a fan of offsets f: take the codes
q = round((x + m)·(n + f)/(max x + m)), fit d and m to them by weighted least squares, clipping m at 0, and keep the fit
if Σu(d·q - m - x)² fell; the next offset starts from the m that was kept. D = max d / 63 and M = max m / 63 are rounded
to fp16, s and t round d/D and m/M as they were before, and the codes are taken again on the grid that ships.

Source: ``quantize_row_q4_K_ref`` and ``make_qkx2_quants`` in ggml-quants.c. A compiler that fuses multiplications and
additions gives ggml other last bits than ours; x86-64 builds of llama-cpp-python do not. *Search* is in
``k_affine_search``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.formats import Format, get_format
from edgepress.artifact.quantized import QuantizedTensor
from edgepress.compress.quantize.grid import Floats, to_fp16
from edgepress.compress.quantize.k_affine_search import search_tile
from edgepress.compress.quantize.k_tiles import Fit, copy_where, solve_in_tiles, tile_importance

_TOP = np.float32(63)

# (first offset f, number of further steps of 0.1)
_FANS = {"q4_K": (-1.0, 20), "q5_K": (-0.5, 15)}


def quantize_k_affine(weight: Floats, format: str, importance: Floats | None, *, search: bool) -> QuantizedTensor:
    """Quantize a matrix to q4_K or q5_K.

    Args:
        weight: float32, (rows, columns), columns a multiple of 256.
        format: q4_K or q5_K.
        importance: float32, (columns,), mean square of each input feature; None weighs all alike. Unused by nearest.
        search: minimise the weighted error; otherwise round by ggml's rule.

    Raises:
        InputError: a value that is not finite, or a super-block's scale or minimum beyond fp16's range.
    """
    spec = get_format(format)
    # Flat and zero sub-blocks divide by zero on the way; what comes of that is never kept.
    with np.errstate(all="ignore"):
        if not search:
            return solve_in_tiles(weight, spec, lambda values, part: _nearest(values, spec))
        important = tile_importance(importance, weight.shape[1], spec)
        return solve_in_tiles(weight, spec, lambda values, part: search_tile(values, important(part), spec))


class _Start(NamedTuple):
    """Per lane: the fitted scale and minimum, and the origin and multiplier whose codes they were fitted to."""

    scale: Floats
    minimum: Floats
    origin: Floats
    multiplier: Floats


def _nearest(values: Floats, spec: Format) -> Fit:
    start = _fan(values, spec)
    super_scale, scales = _six_bits(start.scale, "scale")
    super_min, mins = _six_bits(start.minimum, "minimum")
    step = np.repeat(super_scale, 8) * scales
    codes = values + np.repeat(super_min, 8) * mins
    codes /= step
    np.rint(codes, out=codes)
    # ggml leaves the fan's codes where the step is zero; they stand for nothing, but they are in the file.
    dead = np.flatnonzero(step == 0)
    left = np.rint((values[:, dead] - start.origin[dead]) * start.multiplier[dead])
    codes[:, dead] = np.nan_to_num(left, posinf=0, neginf=0)
    np.clip(codes, 0, len(spec.levels) - 1, out=codes)
    return Fit(codes, scales, super_scale, mins, super_min)


def _six_bits(fitted: Floats, what: str) -> tuple[Floats, Floats]:
    """Non-negative per-lane numbers as fp16 super scale times 6-bit integers."""
    largest = fitted.reshape(-1, 8).max(axis=1) + np.float32(0)  # no negative zero
    inverse = np.where(largest > 0, _TOP / largest, np.float32(0))
    integers = np.nan_to_num(np.rint(np.repeat(inverse, 8) * fitted), copy=False, posinf=0)
    return to_fp16(largest / _TOP, what).astype(np.float32), np.clip(integers, 0, _TOP)


def _fan(x: Floats, spec: Format) -> _Start:
    top = np.float32(len(spec.levels) - 1)
    first, steps = _FANS[spec.name]
    product, level = np.empty_like(x), np.empty_like(x)
    weights, total, total_x = _rms_weights(x, product)
    low, high = np.minimum(x.min(axis=0), np.float32(0)), x.max(axis=0)
    origin, multiplier = low.copy(), top / (high - low)
    scale = 1 / multiplier
    _codes(x, low, multiplier, top, level)
    error = _error(x, weights, level, scale, low, product)
    for index in range(steps + 1):
        trial = (np.float32(first) + np.float32(0.1) * np.float32(index) + top) / (high - low)
        _codes(x, low, trial, top, level)
        fitted, fitted_low, solvable = _least_squares(x, weights, total, total_x, level, product)
        fitted_error = _error(x, weights, level, fitted, fitted_low, product)
        better = (fitted_error < error) & solvable
        copy_where(better, (low, trial), (origin, multiplier))
        copy_where(better, (fitted_error, fitted, fitted_low), (error, scale, low))
    flat = high == np.minimum(x.min(axis=0), np.float32(0))
    scale[flat] = multiplier[flat] = 0
    return _Start(scale, -low, origin, multiplier)


def _rms_weights(x: Floats, product: Floats) -> tuple[Floats, Floats, Floats]:
    """u = rms(x) + |x| with Σu and Σux over each sub-block, summed in ggml's order."""
    np.multiply(x, x, out=product)
    weights = np.abs(x)
    weights += np.sqrt(np.add.reduce(product, axis=0) / np.float32(len(x)))
    np.multiply(weights, x, out=product)
    return weights, np.add.reduce(weights, axis=0), np.add.reduce(product, axis=0)


def _codes(x: Floats, low: Floats, multiplier: Floats, top: np.float32, out: Floats) -> None:
    np.subtract(x, low, out=out)
    out *= multiplier
    np.rint(out, out=out)
    np.clip(out, 0, top, out=out)


def _least_squares(
    x: Floats, weights: Floats, total: Floats, total_x: Floats, level: Floats, product: Floats
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Weighted fit x ≈ scale·level + low with low ≤ 0; and where it has a solution."""
    np.multiply(weights, level, out=product)
    total_q = np.add.reduce(product, axis=0)
    total_qx = np.add.reduce(product * x, axis=0)
    product *= level
    total_qq = np.add.reduce(product, axis=0)
    determinant = total * total_qq - total_q * total_q
    scale = (total * total_qx - total_x * total_q) / determinant
    low = (total_qq * total_x - total_q * total_qx) / determinant
    positive = low > 0
    low[positive] = 0
    np.copyto(scale, total_qx / total_qq, where=positive)
    return scale, low, determinant > 0


def _error(x: Floats, weights: Floats, level: Floats, scale: Floats, low: Floats, product: Floats) -> Floats:
    np.multiply(level, scale, out=product)
    product += low
    product -= x
    np.square(product, out=product)
    product *= weights
    total: Floats = np.add.reduce(product, axis=0)
    return total

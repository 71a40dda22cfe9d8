"""Activation-weighted scale search ("imatrix style"), for formats whose blocks, or whole rows, have one scale.

Idea: a layer's output error weighs each weight by its input, E‖(W - Ŵ)x‖² ≈ Σ_j E[x_j²] (w_j - ŵ_j)². So choose each
block's scale (and minimum) to minimise

    Σ_j h_j (w_j - d·q_j - m)²,      h_j = E[x_j²] · sqrt(σ² + w_j²),     σ² = mean of the row's w²

where the root favours large weights, as ggml does with an importance matrix. For given codes q, d and m have a closed
form; for given d and m, the codes are the nearest levels. We try a fan of starting scales around "the extreme value on
the outermost level", keep the best, then alternate codes and closed form, all on the fp16 values that ship.

Source: ``make_qx_quants`` and ``make_qkx3_quants`` in ggml-quants.c. Where we depart: a wider fan that also puts the
extreme on the opposite end of an asymmetric grid, minima of either sign, codes re-taken after the rounding to fp16, and
two rounds of refitting; a step is kept only where it lowers the error of the rounded result. Formats that want
positive scales put the extreme on its own side of the grid, and a scale per row is searched until 1/1.6 of it is left.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.formats import Format, get_format
from edgepress.artifact.quantized import QuantizedTensor
from edgepress.compress.quantize.grid import (
    Floats,
    assemble,
    encode,
    reciprocal,
    shipped_scale,
    signed_extreme,
    to_blocks,
    to_fp16,
)

_REFITS = 4
# No fp16 scale is small enough for a block below this, and what is divided by it may overflow.
_ZERO_BLOCK = np.float32(1e-30)
_VALUES_AT_A_TIME = 1 << 18  # 1 MiB per temporary: stays in the second-level cache


def quantize_scale_search(weight: Floats, format: str, importance: Floats | None) -> QuantizedTensor:
    """Quantize a matrix to a format of blocks with one scale by weighted scale search.

    Args:
        weight: float32, (rows, columns), columns a multiple of the block.
        format: q8_0, q5_0, q5_1, q4_0, q4_1, iq4_nl, int8, fp8 or trt_int4_*.
        importance: float32, (columns,), mean square of each input feature; None weighs all alike.

    Raises:
        InputError: a scale beyond fp16's range.
    """
    spec = get_format(format)
    blocks = to_blocks(weight, spec)
    emphasis = _emphasis(weight, importance).reshape(blocks.shape)
    codes = np.empty(blocks.shape, np.uint8)
    scale = np.empty(len(blocks), np.float32)
    minimum = np.zeros(len(blocks), np.float32)
    at_a_time = max(1, _VALUES_AT_A_TIME // blocks.shape[1])
    for start in range(0, len(blocks), at_a_time):
        part = slice(start, start + at_a_time)
        fit = _search_affine if spec.has_min else _search_symmetric
        begin = fit(blocks[part], emphasis[part], spec)
        codes[part], scale[part], minimum[part] = _refine(blocks[part], emphasis[part], spec, *begin)
    return assemble(spec, weight.shape, codes, scale, minimum if spec.has_min else None)


def _emphasis(weight: Floats, importance: Floats | None) -> Floats:
    """h of the module docstring, (rows, columns)."""
    squared = weight * weight
    root: Floats = np.sqrt(squared.mean(axis=1, keepdims=True) + squared)
    if importance is None:
        return root
    # A feature that never fired still deserves sensible codes: it may fire outside the calibration text.
    floor = np.float32(1e-6) * importance.mean() + np.float32(np.finfo(np.float32).tiny)
    root *= np.maximum(importance, floor)
    return root


def _search_symmetric(blocks: Floats, emphasis: Floats, spec: Format) -> tuple[Floats, Floats]:
    """Best scale over the fan by the closed-form gain (Σhqx)²/Σhq²; returns (scale, zeros)."""
    extreme = signed_extreme(blocks)
    extreme[np.abs(extreme) < _ZERO_BLOCK] = 0
    per_extreme = reciprocal(np.abs(extreme) if spec.positive else extreme)
    levels = spec.level_array()
    best = np.full(len(blocks), -1, np.float32)
    scale = np.zeros(len(blocks), np.float32)
    for target in _targets(spec):
        level = levels[encode(blocks * (per_extreme * np.float32(target))[:, None], spec)]
        weighted = emphasis * level
        cross = np.einsum("ij,ij->i", weighted, blocks)
        fitted = cross * reciprocal(np.einsum("ij,ij->i", weighted, level))
        gain = fitted * cross
        better = gain > best
        best[better], scale[better] = gain[better], fitted[better]
    return scale, np.zeros_like(scale)


def _targets(spec: Format) -> Iterator[float]:
    """Where on the grid to put the block's extreme value: around the lowest and around the highest level."""
    if spec.kind == "channel":
        yield from np.linspace(0.97, 1.6, 40) * spec.levels[-1]
        return
    spread = (spec.levels[-1] - spec.levels[0]) / 15
    if spec.positive:
        yield from (spec.levels[-1] + 0.1 * step * spread for step in range(-9, 19))
        return
    for end in (spec.levels[0], spec.levels[-1]):
        for step in range(-9, 13) if spec.bits < 8 else range(-2, 3):
            yield end - np.sign(end) * 0.1 * step * spread


def _search_affine(blocks: Floats, emphasis: Floats, spec: Format) -> tuple[Floats, Floats]:
    """Best (scale, minimum) over the fan by the closed-form error."""
    low = blocks.min(axis=1)
    span = blocks.max(axis=1) - low
    per_span = reciprocal(np.where(span < _ZERO_BLOCK, np.float32(0), span))
    shifted = blocks - low[:, None]
    best = np.full(len(blocks), np.inf)
    scale, minimum = np.zeros_like(low), low.copy()
    top = len(spec.levels) - 1
    for step in range(-24, 28, 2):
        codes = encode(shifted * (per_span * np.float32(top + 0.05 * step))[:, None], spec).astype(np.float32)
        fitted, offset, error = _fit_affine(codes, shifted, emphasis)
        better = error < best
        best[better] = error[better]
        scale[better] = fitted[better]
        minimum[better] = offset[better] + low[better]
    return scale, minimum


def _fit_affine(
    level: Floats, blocks: Floats, emphasis: Floats
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """Weighted least squares of x ≈ d·q + m per block: (d, m, error up to a constant)."""
    weighted = emphasis * level
    s_w = emphasis.sum(axis=1, dtype=np.float64)
    s_q = weighted.sum(axis=1, dtype=np.float64)
    s_qq = np.einsum("ij,ij->i", weighted, level).astype(np.float64)
    s_x = np.einsum("ij,ij->i", emphasis, blocks).astype(np.float64)
    s_qx = np.einsum("ij,ij->i", weighted, blocks).astype(np.float64)
    determinant = s_w * s_qq - s_q * s_q
    regular = determinant > 1e-9 * s_w * s_qq
    safe = np.where(regular, determinant, 1.0)
    d = np.where(regular, (s_w * s_qx - s_q * s_x) / safe, 0.0)
    m = np.where(regular, (s_qq * s_x - s_q * s_qx) / safe, s_x / np.maximum(s_w, np.finfo(np.float64).tiny))
    error = -(d * s_qx + m * s_x)
    return d.astype(np.float32), m.astype(np.float32), error


def _refine(
    blocks: Floats, emphasis: Floats, spec: Format, scale: Floats, minimum: Floats
) -> tuple[NDArray[np.uint8], Floats, Floats]:
    """Alternate codes and closed form on fp16 values, keeping what lowers the error; returns codes, scale, minimum."""
    levels = spec.level_array()
    scale, minimum = shipped_scale(scale, spec), _as_shipped(minimum)
    codes = _codes(blocks, scale, minimum, spec)
    error = _error(blocks, emphasis, levels[codes], scale, minimum)
    for _ in range(_REFITS):
        level = levels[codes]
        if spec.has_min:
            new_scale, new_minimum, _ = _fit_affine(level, blocks, emphasis)
        else:
            weighted = emphasis * level
            cross = np.einsum("ij,ij->i", weighted, blocks)
            new_scale = cross * reciprocal(np.einsum("ij,ij->i", weighted, level))
            new_minimum = minimum
        new_scale, new_minimum = shipped_scale(new_scale, spec), _as_shipped(new_minimum)
        new_codes = _codes(blocks, new_scale, new_minimum, spec)
        new_error = _error(blocks, emphasis, levels[new_codes], new_scale, new_minimum)
        better = new_error < error
        codes[better], error[better] = new_codes[better], new_error[better]
        scale[better], minimum[better] = new_scale[better], new_minimum[better]
    return codes, scale, minimum


def _as_shipped(minimum: Floats) -> Floats:
    return to_fp16(minimum, "minimum").astype(np.float32)


def _codes(blocks: Floats, scale: Floats, minimum: Floats, spec: Format) -> NDArray[np.uint8]:
    shifted = blocks - minimum[:, None] if spec.has_min else blocks
    return encode(shifted * reciprocal(scale)[:, None], spec)


def _error(blocks: Floats, emphasis: Floats, level: Floats, scale: Floats, minimum: Floats) -> Floats:
    difference = level * scale[:, None]
    difference += minimum[:, None]
    difference -= blocks
    error: Floats = np.einsum("ij,ij,ij->i", emphasis, difference, difference)
    return error

"""ggml's own rounding to q3_K.

For each sub-block, with e its value of largest magnitude and weights u = x², start from the codes q = round(-4·x/e) and
go over the values five times: with A = Σuxq and B = Σuq² over all other values, the best code of a value x is
round(x·B/A), and it is taken if that raises (Σuxq)² / Σuq², by which the scale d = Σuxq / Σuq² lowers the weighted
error. The d of largest magnitude gets s = -32, which fixes D; the other s round d/D as it was before D's rounding to
fp16, and the codes are taken again on the grid that ships.

Source: ``quantize_row_q3_K_ref`` and ``make_q3_quants`` in ggml-quants.c.
"""

from __future__ import annotations

import numpy as np

from edgepress.artifact.formats import Format
from edgepress.compress.quantize.grid import Floats, to_fp16
from edgepress.compress.quantize.k_tiles import ZERO, Fit, copy_where, extreme_of_lanes

_LANES = 16
_HALF = np.float32(4)
_LOWEST_SCALE = np.float32(-32)
_SWEEPS = 5


def round_tile(values: Floats, spec: Format) -> Fit:
    """Round one tile, float32, (16, lanes).

    Raises:
        InputError: a super-block's scale beyond fp16's range.
    """
    scale, start = _descend(values)
    super_scale, scales = _six_bits(scale)
    step = np.repeat(super_scale, _LANES) * scales
    codes = np.clip(np.rint(values / step), -_HALF, _HALF - 1) + _HALF
    # ggml leaves the first codes where the step is zero; they stand for nothing, but they are in the file.
    np.copyto(codes, start, where=step == 0)
    return Fit(codes, scales, super_scale)


def _six_bits(fitted: Floats) -> tuple[Floats, Floats]:
    """Per-lane scales as fp16 super scale times integers of 6 bits, the one of largest magnitude being -32."""
    grouped = fitted.reshape(-1, _LANES)
    extreme = grouped[np.arange(len(grouped)), np.abs(grouped).argmax(axis=1)]
    inverse = _LOWEST_SCALE / extreme
    super_scale = np.where(extreme == 0, np.float32(0), 1 / inverse)
    scales = np.rint(np.repeat(inverse, _LANES) * fitted)
    # A super-block of zeros has zero bytes for scales, which stand for -32.
    np.copyto(scales, _LOWEST_SCALE, where=np.repeat(extreme == 0, _LANES))
    scales = np.clip(scales, _LOWEST_SCALE, -_LOWEST_SCALE - 1)
    return to_fp16(super_scale, "scale").astype(np.float32), scales


def _descend(x: Floats) -> tuple[Floats, Floats]:
    """Scale of each lane, and the codes (16, lanes) it was fitted to; all 0 for a zero lane."""
    extreme = extreme_of_lanes(x)
    squared = x * x
    cubed = squared * x
    level = np.clip(np.rint(x * (-_HALF / extreme)), -_HALF, _HALF - 1)
    cross = np.add.reduce(cubed * level, axis=0)
    norm = np.add.reduce(squared * level * level, axis=0)
    for _ in range(_SWEEPS):
        for j in range(len(x)):
            _move(x[j], squared[j], cubed[j], level[j], cross, norm)
    scale = np.where(norm > 0, cross / norm, np.float32(0))
    # Where squares overflow there is no fit; the plain scale is out of fp16's range as well, and says so.
    np.copyto(scale, extreme / -_HALF, where=~np.isfinite(scale) | ~np.isfinite(norm))
    codes = level + _HALF
    zero = np.abs(extreme) < ZERO
    scale[zero], codes[:, zero] = 0, 0
    return scale, codes


def _move(x: Floats, squared: Floats, cubed: Floats, level: Floats, cross: Floats, norm: Floats) -> None:
    """Give the value x of each lane its best code, in place, if that is another one and better."""
    others, others_norm = cross - cubed * level, norm - squared * level * level
    wanted: Floats = np.divide(x * others_norm, others)
    moved = np.clip(_round_as_ggml(wanted), -_HALF, _HALF - 1)
    moved_cross = others + cubed * moved
    moved_norm = others_norm + squared * moved * moved
    better = (others > 0) & (moved != level) & (moved_norm > 0)
    better &= moved_cross * moved_cross * norm > cross * cross * moved_norm
    copy_where(better, (moved, moved_cross, moved_norm), (level, cross, norm))


def _round_as_ggml(value: Floats) -> Floats:
    """Half to even, by ggml's addition of 1.5 · 2²³, whose answers are arbitrary but fixed from 2²² on."""
    bits = (value + np.float32(12582912)).view(np.int32)
    return ((bits & 0x007FFFFF) - 0x00400000).astype(np.float32)

"""Round to nearest: by ggml's own rule for its 32-wide block formats, to the covering grid for TensorRT's.

Per block of values x, with L the lowest level and m the value of largest magnitude:

    q4_0, q5_0      d = m / L                         q = ⌊x/d + 1/2⌋           (the extreme value is exact)
    q8_0            d = |m| / 127                     q = round half away (x/d)
    q4_1, q5_1      d = (max - min) / (2^b - 1)       q = ⌊(x - min)/d + 1/2⌋
    iq4_nl          the d of 15 candidates m → -127 … -120, -134 that maximises (Σ w q x)² / Σ w q², w = x²

Codes are taken with the float32 d, and d is rounded to fp16 afterwards, as ggml does: the file is the one that
llama-quantize writes without an importance matrix, byte for byte. Source: ``quantize_row_*_ref`` in ggml-quants.c.

    int8, fp8, trt_int4_*    d = max(max x / H, min x / L), H the highest level; q nearest to x/d for the fp16 d, which
                             is the next one above where fp16's subnormal steps are coarse
"""

from __future__ import annotations

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
)

# ggml treats a block whose largest magnitude is below this as zero (iq4_nl only).
_ZERO_BLOCK = np.float32(1e-15)
_FP16_NORMAL = np.float32(2.0**-14)


def quantize_nearest(weight: Floats, format: str) -> QuantizedTensor:
    """Round a matrix to a format of blocks with one scale.

    Args:
        weight: float32, (rows, columns), columns a multiple of the block.
        format: q8_0, q5_0, q5_1, q4_0, q4_1, iq4_nl, int8, fp8 or trt_int4_*.

    Raises:
        InputError: a scale beyond fp16's range.
    """
    spec = get_format(format)
    blocks = to_blocks(weight, spec)
    if spec.has_min:
        codes, scale, minimum = _affine(blocks, spec)
        return assemble(spec, weight.shape, codes, scale, minimum)
    if spec.positive:
        codes, scale = _covering(blocks, spec)
    elif spec.bits == 8:
        codes, scale = _eight_bit(blocks)
    elif spec.levels[0] == -(2 ** (spec.bits - 1)):
        codes, scale = _symmetric(blocks, spec)
    else:
        codes, scale = _codebook(blocks, spec)
    return assemble(spec, weight.shape, codes, scale, None)


def _symmetric(blocks: Floats, spec: Format) -> tuple[NDArray[np.uint8], Floats]:
    scale = signed_extreme(blocks) / np.float32(spec.levels[0])
    shifted = blocks * reciprocal(scale)[:, None] + np.float32(0.5 - spec.levels[0])
    return np.minimum(shifted, np.float32(len(spec.levels) - 1)).astype(np.uint8), scale


def _covering(blocks: Floats, spec: Format) -> tuple[NDArray[np.uint8], Floats]:
    high, low = np.float32(spec.levels[-1]), np.float32(spec.levels[0])
    exact = np.maximum(blocks.max(axis=1) / high, blocks.min(axis=1) / low)
    scale = shipped_scale(exact, spec)
    short = (scale < exact) & (scale < _FP16_NORMAL)
    scale[short] = np.nextafter(scale[short].astype(np.float16), np.float16(np.inf)).astype(np.float32)
    return encode(blocks / scale[:, None], spec), scale


def _eight_bit(blocks: Floats) -> tuple[NDArray[np.uint8], Floats]:
    scale = np.abs(blocks).max(axis=1) / np.float32(127)
    scaled = blocks * reciprocal(scale)[:, None]
    magnitude = np.abs(scaled)
    # Half away from zero without adding 0.5 in float32, which would carry 0.49999997 over.
    whole = np.floor(magnitude)
    whole += magnitude - whole >= np.float32(0.5)
    return (np.copysign(whole, scaled) + np.float32(128)).astype(np.uint8), scale


def _affine(blocks: Floats, spec: Format) -> tuple[NDArray[np.uint8], Floats, Floats]:
    low, high = blocks.min(axis=1), blocks.max(axis=1)
    top = np.float32(len(spec.levels) - 1)
    scale = (high - low) / top
    shifted = (blocks - low[:, None]) * reciprocal(scale)[:, None] + np.float32(0.5)
    return np.minimum(shifted, top).astype(np.uint8), scale, low


def _codebook(blocks: Floats, spec: Format) -> tuple[NDArray[np.uint8], Floats]:
    extreme = signed_extreme(blocks)
    extreme[np.abs(extreme) < _ZERO_BLOCK] = 0
    per_extreme = reciprocal(extreme)
    levels = spec.level_array()
    squared = blocks * blocks
    best = np.zeros_like(extreme)
    scale = np.zeros_like(extreme)
    lowest = np.float32(spec.levels[0])
    for target in (-lowest, *(lowest + np.float32(step) for step in range(-7, 8))):
        level = levels[encode(blocks * (per_extreme * target)[:, None], spec)]
        weighted = squared * level
        cross = np.einsum("ij,ij->i", weighted, blocks)
        energy = np.einsum("ij,ij->i", weighted, level)
        fitted = np.divide(cross, energy, out=np.zeros_like(cross), where=energy > 0)
        better = fitted * cross > best
        best[better] = (fitted * cross)[better]
        scale[better] = fitted[better]
    return encode(blocks * reciprocal(scale)[:, None], spec), scale

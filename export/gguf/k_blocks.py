"""The 256-wide "K" blocks of ggml: integer scales under one or two fp16 scales.

    q4_K    D, M (fp16), 12 bytes of 6-bit scales and minima, 128 bytes of codes          144 bytes
    q5_K    D, M, 12 bytes, 32 bytes of fifth bits, 128 bytes of low nibbles              176 bytes
    q6_K    128 bytes of low nibbles, 64 bytes of high bit pairs, 16 × int8 scales, D     210 bytes

Codes of q4_K and q5_K: each 64 values make 32 bytes, the first 32 values in the low nibbles; the fifth bit of value l
of sub-block k is bit k of byte l. Codes of q6_K: each 128 values are four quarters; quarters 0 and 1 fill the low
nibbles of 64 bytes, quarters 2 and 3 the high ones, and bits 2i, 2i + 1 of byte l hold the upper two bits of value l of
quarter i.

The eight 6-bit scales s and minima t share 12 bytes:

    byte j       s_j | high two bits of s_(j+4)          j = 0 … 3
    byte j + 4   t_j | high two bits of t_(j+4)
    byte j + 8   low nibble of s_(j+4) | low nibble of t_(j+4) << 4

Source: ggml-common.h and the decoders of ggml-quants.c.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.formats import Format
from edgepress.artifact.quantized import QuantizedTensor
from edgepress.export.gguf.bits import Bytes, half_bytes, halves, join_nibbles, split_nibbles

_WIDTH = 256


def pack(tensor: QuantizedTensor) -> Bytes:
    """Bytes of a q4_K, q5_K or q6_K tensor, uint8, (rows, columns / 256 * block_bytes)."""
    rows, columns = tensor.shape
    codes = tensor.codes.reshape(rows, columns // _WIDTH, _WIDTH)
    assert tensor.super_scales is not None, f"{tensor.format} tensor without super-block scales"
    fine = tensor.scales.reshape(rows, columns // _WIDTH, -1)
    parts = _pack_signed(codes, fine, tensor) if tensor.mins is None else _pack_affine(codes, fine, tensor)
    return np.concatenate(parts, axis=-1).reshape(rows, -1)


def unpack(spec: Format, blocks: Bytes) -> QuantizedTensor:
    """The inverse of :func:`pack`; ``blocks`` is uint8, (rows, columns / 256, block_bytes)."""
    return _unpack_affine(spec, blocks) if spec.has_min else _unpack_signed(spec, blocks)


def pack_six_bit(scales: Bytes, mins: Bytes) -> Bytes:
    """Eight 6-bit scales and eight 6-bit minima, each (…, 8), → (…, 12)."""
    low_scales, high_scales = scales[..., :4], scales[..., 4:]
    low_mins, high_mins = mins[..., :4], mins[..., 4:]
    return np.concatenate(
        [
            low_scales | ((high_scales >> 4) << 6),
            low_mins | ((high_mins >> 4) << 6),
            join_nibbles(high_scales, high_mins),
        ],
        axis=-1,
    )


def unpack_six_bit(data: Bytes) -> tuple[Bytes, Bytes]:
    """The inverse of :func:`pack_six_bit`."""
    nibbles = split_nibbles(data[..., 8:])
    parts = []
    for head, nibble in zip((data[..., :4], data[..., 4:8]), nibbles, strict=True):
        parts.append(np.concatenate([head & 0x3F, nibble | ((head >> 6) << 4)], axis=-1))
    return parts[0], parts[1]


def _pack_affine(codes: Bytes, scales: NDArray[Any], tensor: QuantizedTensor) -> list[Bytes]:
    assert tensor.mins is not None and tensor.super_mins is not None
    mins = tensor.mins.reshape(scales.shape)
    sub_blocks = codes.reshape(*codes.shape[:2], 8, 32)
    nibbles = join_nibbles(sub_blocks[:, :, 0::2], sub_blocks[:, :, 1::2]).reshape(*codes.shape[:2], 128)
    fifth = [np.packbits(sub_blocks >> 4, axis=2, bitorder="little")[:, :, 0]] if tensor.spec.bits == 5 else []
    head = [half_bytes(tensor.super_scales), half_bytes(tensor.super_mins)]  # type: ignore[arg-type]
    return [*head, pack_six_bit(scales.astype(np.uint8), mins.astype(np.uint8)), *fifth, nibbles]


def _unpack_affine(spec: Format, blocks: Bytes) -> QuantizedTensor:
    rows, count = blocks.shape[:2]
    scales, mins = unpack_six_bit(blocks[..., 4:16])
    pairs = split_nibbles(blocks[..., -128:].reshape(rows, count, 4, 32))
    codes = np.stack(pairs, axis=3).reshape(rows, count, 8, 32)  # (rows, blocks, pair, low or high, value)
    if spec.bits == 5:
        codes |= np.unpackbits(blocks[:, :, None, 16:48], axis=2, bitorder="little") << 4
    return QuantizedTensor(
        format=spec.name,
        codes=codes.reshape(rows, count * _WIDTH),
        scales=scales.reshape(rows, count * 8),
        mins=mins.reshape(rows, count * 8),
        super_scales=halves(blocks[..., :2]),
        super_mins=halves(blocks[..., 2:4]),
    )


def _pack_signed(codes: Bytes, scales: NDArray[Any], tensor: QuantizedTensor) -> list[Bytes]:
    rows, count = codes.shape[:2]
    quarters = codes.reshape(rows, count, 2, 4, 32)
    low = join_nibbles(quarters[:, :, :, :2], quarters[:, :, :, 2:]).reshape(rows, count, 128)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = np.bitwise_or.reduce((quarters >> 4) << shifts, axis=3).reshape(rows, count, 64)
    signed = np.ascontiguousarray(scales, dtype=np.int8).view(np.uint8)
    return [low, high, signed, half_bytes(tensor.super_scales)]  # type: ignore[arg-type]


def _unpack_signed(spec: Format, blocks: Bytes) -> QuantizedTensor:
    rows, count = blocks.shape[:2]
    pairs = split_nibbles(blocks[..., :128].reshape(rows, count, 2, 2, 32))
    codes = np.concatenate(pairs, axis=3)  # (rows, blocks, half, quarter, value)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = (blocks[..., 128:192].reshape(rows, count, 2, 1, 32) >> shifts) & 0x03
    codes |= high << 4
    scales = np.ascontiguousarray(blocks[..., 192:208]).view(np.int8)
    return QuantizedTensor(
        format=spec.name,
        codes=codes.reshape(rows, count * _WIDTH),
        scales=scales.reshape(rows, count * 16),
        super_scales=halves(blocks[..., 208:210]),
    )

"""The 256-wide blocks of ggml without minima: signed integer scales under one fp16 number D.

    q6_K      128 bytes of low nibbles, 64 bytes of high bit pairs, 16 × int8 scales, D              210 bytes
    q3_K      32 bytes of third bits, 64 bytes of low bit pairs, 12 bytes of 6-bit scales, D         110 bytes
    iq4_xs    D, 2 bytes of high and 4 bytes of low bits of 6-bit scales, 128 bytes of nibbles       136 bytes

Codes of q6_K: each 128 values are four quarters; quarters 0 and 1 fill the low nibbles of 64 bytes, quarters 2 and 3
the high ones, and bits 2i, 2i + 1 of byte l hold the upper two bits of value l of quarter i. Codes of q3_K: the lower
two bits lie as q6_K's upper two do; the third bit of value l of the k-th 32 values is bit k of byte l. Codes of iq4_xs:
16 bytes per 32 values, as in q4_0.

6-bit scales are stored as u = s + 32. The sixteen of q3_K:

    byte j       low nibble of u_j | low nibble of u_(j+8) << 4                j = 0 … 7
    byte j + 8   upper two bits of u_j, u_(j+4), u_(j+8), u_(j+12)             j = 0 … 3

The eight of iq4_xs: upper two bits of u_j in bits 2j, 2j + 1 of a little-endian 16-bit number, then the low nibbles of
u_2j and u_(2j+1) in byte j.

Source: ggml-common.h and the decoders of ggml-quants.c.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.formats import Format
from edgepress.artifact.quantized import QuantizedTensor
from edgepress.export.gguf.bits import Bytes, half_bytes, halves, join_nibbles, split_nibbles

Integers = NDArray[np.int8]
_PAIRS = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
_TWO, _FOUR, _LOW_PAIR = np.uint8(2), np.uint8(4), np.uint8(0x03)


def pack(tensor: QuantizedTensor) -> Bytes:
    """Bytes of a q6_K, q3_K or iq4_xs tensor, uint8, (rows, columns / 256 * block_bytes)."""
    assert tensor.super_scales is not None, f"{tensor.format} tensor without super-block scales"
    rows, count = tensor.super_scales.shape
    codes, scales = tensor.codes.reshape(rows, count, 256), tensor.scales.astype(np.int8).reshape(rows, count, -1)
    parts = _PACKERS[tensor.format](codes, scales, half_bytes(tensor.super_scales))
    return np.concatenate(parts, axis=-1).reshape(rows, -1)


def unpack(spec: Format, blocks: Bytes) -> QuantizedTensor:
    """The inverse of :func:`pack`; ``blocks`` is uint8, (rows, columns / 256, block_bytes)."""
    rows = len(blocks)
    codes, scales, super_scales = _UNPACKERS[spec.name](blocks)
    return QuantizedTensor(
        format=spec.name,
        codes=codes.reshape(rows, -1),
        scales=np.ascontiguousarray(scales).view(np.int8).reshape(rows, -1),
        super_scales=halves(super_scales),
    )


def _pack_q6(codes: Bytes, scales: Integers, super_scales: Bytes) -> list[Bytes]:
    quarters = codes.reshape(*codes.shape[:2], 2, 4, 32)
    low = join_nibbles(quarters[:, :, :, :2], quarters[:, :, :, 2:]).reshape(*codes.shape[:2], 128)
    return [low, _join_pairs(quarters >> _FOUR), scales.view(np.uint8), super_scales]


def _unpack_q6(blocks: Bytes) -> tuple[Bytes, Bytes, Bytes]:
    rows, count = blocks.shape[:2]
    pairs = split_nibbles(blocks[..., :128].reshape(rows, count, 2, 2, 32))
    codes = np.concatenate(pairs, axis=3)  # (rows, blocks, half, quarter, value)
    codes |= _split_pairs(blocks[..., 128:192]) << _FOUR
    return codes, blocks[..., 192:208], blocks[..., 208:210]


def _pack_q3(codes: Bytes, scales: Integers, super_scales: Bytes) -> list[Bytes]:
    rows, count = codes.shape[:2]
    third = np.packbits(codes.reshape(rows, count, 8, 32) >> _TWO, axis=2, bitorder="little")[:, :, 0]
    shifted = (scales + np.int8(32)).view(np.uint8)
    nibbles = join_nibbles(shifted[..., :8], shifted[..., 8:])
    upper = np.bitwise_or.reduce((shifted >> _FOUR).reshape(rows, count, 4, 4) << _PAIRS, axis=2)
    return [third, _join_pairs(codes.reshape(rows, count, 2, 4, 32) & _LOW_PAIR), nibbles, upper, super_scales]


def _unpack_q3(blocks: Bytes) -> tuple[Bytes, Bytes, Bytes]:
    rows, count = blocks.shape[:2]
    codes = _split_pairs(blocks[..., 32:96]).reshape(rows, count, 8, 32)
    codes |= np.unpackbits(blocks[:, :, None, :32], axis=2, bitorder="little") << _TWO
    nibbles = np.concatenate(split_nibbles(blocks[..., 96:104]), axis=-1)
    upper = ((blocks[..., None, 104:108] >> _PAIRS) & _LOW_PAIR).reshape(rows, count, 16)
    return codes, _centred(nibbles, upper), blocks[..., 108:110]


def _pack_iq4(codes: Bytes, scales: Integers, super_scales: Bytes) -> list[Bytes]:
    rows, count = codes.shape[:2]
    halved = codes.reshape(rows, count, 8, 2, 16)
    shifted = (scales + np.int8(32)).view(np.uint8)
    upper = np.bitwise_or.reduce((shifted >> _FOUR).reshape(rows, count, 2, 4) << _PAIRS[:, 0], axis=3)
    nibbles = join_nibbles(halved[:, :, :, 0], halved[:, :, :, 1]).reshape(rows, count, 128)
    return [super_scales, upper, join_nibbles(shifted[..., ::2], shifted[..., 1::2]), nibbles]


def _unpack_iq4(blocks: Bytes) -> tuple[Bytes, Bytes, Bytes]:
    rows, count = blocks.shape[:2]
    codes = np.concatenate(split_nibbles(blocks[..., 8:].reshape(rows, count, 8, 16)), axis=-1)
    nibbles = np.stack(split_nibbles(blocks[..., 4:8]), axis=-1).reshape(rows, count, 8)
    upper = ((blocks[..., 2:4, None] >> _PAIRS[:, 0]) & _LOW_PAIR).reshape(rows, count, 8)
    return codes, _centred(nibbles, upper), blocks[..., :2]


def _join_pairs(quarters: Bytes) -> Bytes:
    """Two bits per value, (rows, blocks, 2, 4, 32) → (rows, blocks, 64): value l of quarter i at bit 2i of byte l."""
    joined: Bytes = np.bitwise_or.reduce(quarters << _PAIRS, axis=3).reshape(*quarters.shape[:2], 64)
    return joined


def _split_pairs(data: Bytes) -> Bytes:
    """The inverse of :func:`_join_pairs`."""
    pairs: Bytes = (data.reshape(*data.shape[:2], 2, 1, 32) >> _PAIRS) & _LOW_PAIR
    return pairs


def _centred(nibbles: Bytes, upper: Bytes) -> Bytes:
    """u - 32 of 6-bit u, as the bytes of signed integers."""
    centred: Bytes = (nibbles | (upper << _FOUR)) - np.uint8(32)
    return centred


_PACKERS: Mapping[str, Callable[[Bytes, Integers, Bytes], list[Bytes]]] = MappingProxyType(
    {"q6_K": _pack_q6, "q3_K": _pack_q3, "iq4_xs": _pack_iq4}
)
_UNPACKERS: Mapping[str, Callable[[Bytes], tuple[Bytes, Bytes, Bytes]]] = MappingProxyType(
    {"q6_K": _unpack_q6, "q3_K": _unpack_q3, "iq4_xs": _unpack_iq4}
)

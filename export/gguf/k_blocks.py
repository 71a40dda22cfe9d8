"""The 256-wide blocks of ggml with minima: integer scales and minima under two fp16 numbers.

    q4_K    D, M (fp16), 12 bytes of 6-bit scales and minima, 128 bytes of codes          144 bytes
    q5_K    D, M, 12 bytes, 32 bytes of fifth bits, 128 bytes of low nibbles              176 bytes

Each 64 values make 32 bytes of codes, the first 32 values in the low nibbles; the fifth bit of value l of sub-block k
is bit k of byte l.

The eight 6-bit scales s and minima t share 12 bytes:

    byte j       s_j | high two bits of s_(j+4)          j = 0 … 3
    byte j + 4   t_j | high two bits of t_(j+4)
    byte j + 8   low nibble of s_(j+4) | low nibble of t_(j+4) << 4

Source: ggml-common.h and the decoders of ggml-quants.c. Those without minima are in
:mod:`edgepress.export.gguf.signed_blocks`.
"""

from __future__ import annotations

import numpy as np

from edgepress.artifact.formats import Format
from edgepress.artifact.quantized import QuantizedTensor
from edgepress.export.gguf.bits import Bytes, half_bytes, halves, join_nibbles, split_nibbles


def pack(tensor: QuantizedTensor) -> Bytes:
    """Bytes of a q4_K or q5_K tensor, uint8, (rows, columns / 256 * block_bytes)."""
    assert tensor.mins is not None and tensor.super_scales is not None and tensor.super_mins is not None
    rows, count = tensor.super_scales.shape
    sub_blocks = tensor.codes.reshape(rows, count, 8, 32)
    scales, mins = (part.astype(np.uint8).reshape(rows, count, 8) for part in (tensor.scales, tensor.mins))
    nibbles = join_nibbles(sub_blocks[:, :, 0::2], sub_blocks[:, :, 1::2]).reshape(rows, count, 128)
    fifth = [np.packbits(sub_blocks >> 4, axis=2, bitorder="little")[:, :, 0]] if tensor.spec.bits == 5 else []
    head = [half_bytes(tensor.super_scales), half_bytes(tensor.super_mins)]
    return np.concatenate([*head, pack_six_bit(scales, mins), *fifth, nibbles], axis=-1).reshape(rows, -1)


def unpack(spec: Format, blocks: Bytes) -> QuantizedTensor:
    """The inverse of :func:`pack`; ``blocks`` is uint8, (rows, columns / 256, block_bytes)."""
    rows, count = blocks.shape[:2]
    scales, mins = unpack_six_bit(blocks[..., 4:16])
    pairs = split_nibbles(blocks[..., -128:].reshape(rows, count, 4, 32))
    codes = np.stack(pairs, axis=3).reshape(rows, count, 8, 32)  # (rows, blocks, pair, low or high, value)
    if spec.bits == 5:
        codes |= np.unpackbits(blocks[:, :, None, 16:48], axis=2, bitorder="little") << 4
    return QuantizedTensor(
        format=spec.name,
        codes=codes.reshape(rows, count * 256),
        scales=scales.reshape(rows, count * 8),
        mins=mins.reshape(rows, count * 8),
        super_scales=halves(blocks[..., :2]),
        super_mins=halves(blocks[..., 2:4]),
    )


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

"""QuantizedTensor ↔ the bytes of a GGUF file: one row of values is one run of blocks.

Layouts of the 32-wide blocks (``d``, ``m`` are little-endian fp16, then the integers):

    q8_0    d, 32 × int8
    q4_0    d, 16 bytes: byte j holds value j in its low and value j + 16 in its high nibble     (iq4_nl the same)
    q4_1    d, m, 16 bytes as q4_0
    q5_0    d, 4 bytes of fifth bits (bit j belongs to value j), 16 bytes with the low four bits as q4_0
    q5_1    d, m, then as q5_0

Source: the block structs of ggml-common.h. The 256-wide types are in :mod:`edgepress.export.gguf.k_blocks`
and :mod:`edgepress.export.gguf.signed_blocks`.
"""

from __future__ import annotations

import numpy as np

from edgepress.artifact.formats import Format, get_format
from edgepress.artifact.quantized import QuantizedTensor
from edgepress.export.gguf import k_blocks, signed_blocks
from edgepress.export.gguf.bits import Bytes, half_bytes, halves, join_nibbles, split_nibbles

_NIBBLES = 16  # bytes that 32 four-bit values take
_SIGN = np.uint8(0x80)


def pack(tensor: QuantizedTensor) -> Bytes:
    """The tensor's bytes in a GGUF file.

    Returns:
        uint8, (rows, columns / block * block_bytes).
    """
    if tensor.spec.kind == "super":
        return k_blocks.pack(tensor) if tensor.spec.has_min else signed_blocks.pack(tensor)
    rows, columns = tensor.shape
    codes = tensor.codes.reshape(rows, columns // 32, 32)
    floats = [tensor.scales] if tensor.mins is None else [tensor.scales, tensor.mins]
    parts = [half_bytes(part) for part in floats] + _pack_codes(codes, tensor.spec.bits)
    return np.concatenate(parts, axis=-1).reshape(rows, -1)


def unpack(format: str, data: Bytes, columns: int) -> QuantizedTensor:
    """The inverse of :func:`pack`, exact for every byte string.

    Args:
        format: name of a block format.
        data: uint8, (rows, columns / block * block_bytes).
        columns: values per row.
    """
    spec = get_format(format)
    blocks = np.ascontiguousarray(data).reshape(len(data), columns // spec.block, spec.block_bytes)
    if spec.kind == "super":
        return k_blocks.unpack(spec, blocks) if spec.has_min else signed_blocks.unpack(spec, blocks)
    head = 4 if spec.has_min else 2
    return QuantizedTensor(
        format=format,
        codes=_unpack_codes(blocks[..., head:], spec).reshape(len(data), columns),
        scales=halves(blocks[..., :2]),
        mins=halves(blocks[..., 2:4]) if spec.has_min else None,
    )


def _pack_codes(codes: Bytes, bits: int) -> list[Bytes]:
    """(rows, blocks, 32) → the integer parts of the block, each (rows, blocks, bytes)."""
    if bits == 8:
        return [codes ^ _SIGN]  # code = int8 + 128, which flips the sign bit
    nibbles = join_nibbles(codes[..., :16], codes[..., 16:])
    if bits == 4:
        return [nibbles]
    return [np.packbits(codes >> 4, axis=-1, bitorder="little"), nibbles]


def _unpack_codes(parts: Bytes, spec: Format) -> Bytes:
    """The integer bytes of the blocks → codes, (rows, blocks, 32)."""
    if spec.bits == 8:
        return parts ^ _SIGN
    codes = np.concatenate(split_nibbles(parts[..., -_NIBBLES:]), axis=-1)
    if spec.bits == 5:
        codes |= np.unpackbits(parts[..., :4], axis=-1, bitorder="little") << 4
    return codes

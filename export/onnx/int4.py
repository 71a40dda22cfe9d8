"""ONNX's int4 tensors: two's complement, two values to a byte, the first in the low half, row after row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Codes 0 … 15 stand for -8 … 7: the four bits of the level are the code's with the highest one flipped.
_SIGN = np.uint8(8)


def pack_int4(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Codes 0 … 15 of any shape → bytes, uint8 (⌈values / 2⌉,); an odd end is filled with a zero."""
    bits = codes.reshape(-1) ^ _SIGN
    if bits.size % 2:
        bits = np.append(bits, np.uint8(0))
    packed: NDArray[np.uint8] = bits[0::2] | (bits[1::2] << np.uint8(4))
    return packed


def unpack_int4(packed: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The codes behind bytes, uint8 of the given shape."""
    data = packed.view(np.uint8)
    bits = np.empty(data.size * 2, np.uint8)
    bits[0::2], bits[1::2] = data & 15, data >> 4
    return (bits[: int(np.prod(shape))] ^ _SIGN).reshape(shape)

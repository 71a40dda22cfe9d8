"""E4M3, the 8-bit float of FP8 weights and activations: its finite values, and the bytes that stand for them.

    value = ± 2^(e - 7) · (1 + m / 8)      e = 1 … 15, m = 0 … 7; e = 15, m = 7 is not a number
    value = ± 2^-6 · m / 8                 e = 0

so the largest is 448, and near zero values are 2^-9 apart. There are no infinities; ONNX calls the type float8e4m3fn
and saturates beyond 448. Source: Micikevicius et al., "FP8 formats for deep learning" (arXiv 2209.05433).

A code here is the place of a value among all of them, ascending, as in every format; -0 has none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 448.0
SMALLEST_GAP = 2.0**-9
_NAN = 0x7F


def _value(byte: int) -> float:
    exponent, mantissa = byte >> 3 & 15, byte & 7
    size = 2.0 ** (exponent - 7) * (1 + mantissa / 8) if exponent else 2.0**-6 * mantissa / 8
    return -size if byte & 0x80 else size


_BYTES = sorted((byte for byte in range(256) if byte & 0x7F != _NAN and byte != 0x80), key=_value)
E4M3_LEVELS = tuple(_value(byte) for byte in _BYTES)
_BYTE_OF_CODE = np.array(_BYTES, np.uint8)
_CODE_OF_BYTE = np.full(256, 255, np.uint8)
_CODE_OF_BYTE[_BYTE_OF_CODE] = np.arange(len(_BYTES))
_CODE_OF_BYTE[0x80] = E4M3_LEVELS.index(0.0)


def e4m3_bytes(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The bytes of codes, same shape."""
    stored: NDArray[np.uint8] = _BYTE_OF_CODE[codes]
    return stored


def e4m3_codes(stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The codes of bytes, same shape; 255, which is none, for what is not a number."""
    codes: NDArray[np.uint8] = _CODE_OF_BYTE[stored]
    return codes


def nearest_e4m3(values: NDArray[Any]) -> NDArray[np.float64]:
    """The nearest of E4M3's values, half to the even mantissa, what is beyond the largest to that; same shape."""
    sizes = np.minimum(np.abs(np.asarray(values, np.float64)), LARGEST)
    exponents = np.maximum(np.floor(np.log2(np.maximum(sizes, SMALLEST_GAP))), -6)
    gaps = 2.0 ** (exponents - 3)
    rounded: NDArray[np.float64] = np.copysign(np.rint(sizes / gaps) * gaps, values)
    return rounded

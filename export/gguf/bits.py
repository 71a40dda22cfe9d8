"""Bits and bytes that the block layouts share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

_LOW = np.uint8(0x0F)
_FOUR = np.uint8(4)


def half_bytes(values: NDArray[Any]) -> Bytes:
    """fp16 values → their little-endian bytes: (…,) → (…, 2)."""
    return np.ascontiguousarray(values, dtype="<f2")[..., None].view(np.uint8)


def halves(data: Bytes) -> NDArray[np.float16]:
    """Little-endian bytes → fp16 values: (…, 2) → (…,)."""
    return np.ascontiguousarray(data).view("<f2")[..., 0].astype(np.float16)


def join_nibbles(low: Bytes, high: Bytes) -> Bytes:
    """Bytes whose low nibble is the low nibble of ``low`` and whose high nibble is the low nibble of ``high``."""
    return (low & _LOW) | (high << _FOUR)


def split_nibbles(data: Bytes) -> tuple[Bytes, Bytes]:
    """The low and the high nibbles of bytes."""
    return data & _LOW, data >> _FOUR

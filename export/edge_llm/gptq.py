"""GPTQ's packed layout (version 1, as AutoGPTQ and GPTQModel write it), for symmetric 4-bit weights.

For a matrix of ``rows`` outputs and ``columns`` inputs in groups of ``g`` columns, little-endian nibbles:

    qweight  int32 (columns / 8, rows)      nibble k of (i, r) is the code of column 8 i + k, row r, 0 … 15
    qzeros   int32 (columns / g, rows / 8)  nibble k of (b, j) is the zero point of row 8 j + k, less one: 7
    scales   fp16  (columns / g, rows)
    g_idx    int32 (columns,)               the group of every column

    w = scale · (code − (stored zero + 1))

Our codes count levels from −8, so they are GPTQ's codes with the zero point 8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.quantized import QuantizedTensor

ZERO = 8
_NIBBLES = 8
_SHIFTS = np.arange(0, 4 * _NIBBLES, 4, dtype=np.uint32)


def pack_gptq(tensor: QuantizedTensor) -> dict[str, NDArray[Any]]:
    """The four arrays, by their names behind the module's. Rows and columns must be multiples of 8."""
    rows, columns = tensor.shape
    groups = columns // tensor.block_size
    return {
        "qweight": _pack(tensor.codes.T.reshape(columns // _NIBBLES, _NIBBLES, rows).transpose(0, 2, 1)),
        "qzeros": _pack(np.full((groups, rows // _NIBBLES, _NIBBLES), ZERO - 1, np.uint8)),
        "scales": np.ascontiguousarray(tensor.scales.T),
        "g_idx": (np.arange(columns) // tensor.block_size).astype(np.int32),
    }


def unpack_gptq(arrays: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """The values that the arrays stand for, float32 (rows, columns)."""
    codes = _unpack(arrays["qweight"]).transpose(0, 2, 1).reshape(-1, arrays["qweight"].shape[1])
    zeros = _unpack(arrays["qzeros"]).reshape(arrays["qzeros"].shape[0], -1).astype(np.int32) + 1
    group = arrays["g_idx"]
    levels = codes.astype(np.int32) - zeros[group]
    values: NDArray[np.float32] = levels.astype(np.float32) * arrays["scales"].astype(np.float32)[group]
    return values.T


def _pack(nibbles: NDArray[np.uint8]) -> NDArray[np.int32]:
    """(…, 8) values of 4 bits → (…) int32."""
    words = np.bitwise_or.reduce(nibbles.astype(np.uint32) << _SHIFTS, axis=-1)
    stored: NDArray[np.int32] = np.ascontiguousarray(words).view(np.int32)  # safetensors writes memory as it lies
    return stored


def _unpack(packed: NDArray[np.int32]) -> NDArray[np.uint8]:
    return ((packed.view(np.uint32)[..., None] >> _SHIFTS) & 15).astype(np.uint8)

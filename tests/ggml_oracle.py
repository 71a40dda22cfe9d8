"""ggml's own quantizer and decoder, for tests that compare with it.

The quantizer is the C library that llama-cpp-python ships, reached through ctypes without importing llama_cpp (whose
import prints and loads every backend). The decoder is the one of the ``gguf`` package. Tests that use this module skip
where either is missing.
"""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

FORMATS = ("q8_0", "q5_0", "q5_1", "q4_0", "q4_1", "iq4_nl", "q4_K", "q5_K", "q6_K", "iq4_xs", "q3_K")

_LIBRARY_NAMES = ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll")
_FLOATS = ctypes.POINTER(ctypes.c_float)


def ggml_quantize(
    format: str, weight: NDArray[np.float32], importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """Quantize with ggml's C code, as llama-quantize does for one tensor.

    Args:
        format: one of :data:`FORMATS`.
        weight: float32, (rows, columns); columns a multiple of the format's block.
        importance: the tensor's importance matrix, float32, (columns,); None for ggml's rule without one.

    Returns:
        The packed blocks, uint8, (rows, bytes per row).
    """
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType[format.upper()]
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    rows, columns = weight.shape
    assert columns % block == 0, f"{format}: {columns} columns are not a multiple of {block}"
    assert importance is None or importance.shape == (columns,)
    source = np.ascontiguousarray(weight, dtype=np.float32)
    imatrix = None if importance is None else np.ascontiguousarray(importance, dtype=np.float32)
    packed = np.zeros((rows, columns // block * block_bytes), dtype=np.uint8)
    written = _library().ggml_quantize_chunk(
        int(kind),
        source.ctypes.data_as(_FLOATS),
        packed.ctypes.data_as(ctypes.c_void_p),
        0,
        rows,
        columns,
        None if imatrix is None else imatrix.ctypes.data_as(_FLOATS),
    )
    assert written == packed.size
    return packed


def ggml_dequantize(format: str, packed: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The values of packed blocks, float32, (rows, columns), by the decoder of the ``gguf`` package."""
    gguf = pytest.importorskip("gguf")
    values: NDArray[np.float32] = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType[format.upper()])
    return values


@cache
def _library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("llama_cpp")  # finds the package without running it
    if spec is None or spec.origin is None:
        pytest.skip("llama-cpp-python is not installed")
    folder = Path(spec.origin).parent / "lib"
    found = [folder / name for name in _LIBRARY_NAMES if (folder / name).is_file()]
    if not found:
        pytest.skip(f"no ggml library in {folder}")
    library = ctypes.CDLL(str(found[0]))
    function = library.ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    function.argtypes = [
        ctypes.c_int,
        _FLOATS,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        _FLOATS,
    ]
    return library

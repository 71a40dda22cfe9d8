"""The bytes of an initializer's pieces, streamed from a checkpoint in runs of rows.

Rotary tables follow transformers: float32 frequencies times float32 positions, so that the reference and the engine
rotate by the same angles far into the context.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import FAMILIES
from edgepress.artifact.float8 import e4m3_bytes
from edgepress.artifact.quantized import QuantizedTensor
from edgepress.artifact.rope import frequencies
from edgepress.artifact.spec import ModelSpec
from edgepress.errors import ParityError
from edgepress.export.onnx.graph import Dtype, Initializer, Piece
from edgepress.export.onnx.int4 import pack_int4
from edgepress.export.onnx.matmulnbits import pack

Array = NDArray[Any]

_SIGN = np.int8(-128)  # code = level + 128, which flips the sign bit
_RUN_VALUES = 1 << 22  # values handled at a time


def initializer_bytes(checkpoint: Checkpoint, entry: Initializer) -> Iterator[bytes]:
    """The bytes of an initializer, in order, little-endian."""
    for piece in entry.pieces:
        for run in piece_runs(checkpoint, piece):
            yield run.astype(numpy_dtype(entry.dtype)).tobytes()


def numpy_dtype(dtype: Dtype) -> np.dtype[Any]:
    """The type of an initializer's values in a file; int4 values lie in pairs in bytes, and E4M3's are bytes."""
    return np.dtype("uint8" if dtype in ("int4", "float8e4m3fn") else dtype).newbyteorder("<")


def rotary_table(spec: ModelSpec, part: str) -> NDArray[np.float32]:
    """One table: cos or sin of every position's angles, float32 (context, head_dim / 2)."""
    rope = spec.rope_local if part.endswith("_local") and spec.rope_local is not None else spec.rope
    steps = frequencies(rope, spec.head_dim).astype(np.float32)
    angles = np.arange(spec.context, dtype=np.float32)[:, None] * steps
    table: NDArray[np.float32] = np.cos(angles) if part.startswith("cos") else np.sin(angles)
    return table


def quantized_tensor(checkpoint: Checkpoint, name: str) -> QuantizedTensor:
    """The integers of a tensor that the plan says has them.

    Raises:
        ParityError: the checkpoint has none.
    """
    tensor = checkpoint.quantized(name)
    if tensor is None:
        raise ParityError(f"{name}: the checkpoint lists it as {checkpoint.format(name)} and holds no integers for it")
    return tensor


def piece_runs(checkpoint: Checkpoint, piece: Piece) -> Iterator[Array]:
    """A piece's values, in runs of rows."""
    if not piece.tensor:
        yield rotary_table(checkpoint.spec, piece.part)
    elif piece.part == "zeros":
        yield np.zeros(checkpoint.shape(piece.tensor)[0], dtype=np.float32)
    elif piece.part == "gain":
        offset = np.float32(FAMILIES[checkpoint.spec.family].norm_offset)
        yield checkpoint.read(piece.tensor) + offset
    elif piece.part == "input_scale":
        yield np.asarray(checkpoint.activation_scales[piece.tensor], np.float32)
    elif piece.part == "levels":
        yield _levels(quantized_tensor(checkpoint, piece.tensor)).T
    elif piece.part == "row_scales":
        yield quantized_tensor(checkpoint, piece.tensor).step()
    elif piece.part == "level_rows":
        yield _levels(quantized_tensor(checkpoint, piece.tensor))
    elif piece.part in ("blocks", "block_rows"):
        codes = quantized_tensor(checkpoint, piece.tensor).codes
        yield pack_int4(codes.T if piece.part == "blocks" else codes)
    elif piece.part in ("block_scales", "block_row_scales"):
        scales = quantized_tensor(checkpoint, piece.tensor).scales
        yield scales.T if piece.part == "block_scales" else scales
    elif piece.part == "values":
        yield from _row_runs(checkpoint.read(piece.tensor))
    else:
        yield from _packed_runs(quantized_tensor(checkpoint, piece.tensor), piece.part)


def _levels(tensor: QuantizedTensor) -> Array:
    """The levels of a channel format as they lie in a file: int8, or E4M3's bytes."""
    if tensor.format == "fp8":
        return e4m3_bytes(tensor.codes)
    levels: Array = tensor.codes.view(np.int8) ^ _SIGN
    return levels


def _row_runs(values: Array) -> Iterator[Array]:
    for rows in _slices(values.shape):
        yield values[rows]


def _packed_runs(tensor: QuantizedTensor, part: str) -> Iterator[Array]:
    for rows in _slices(tensor.shape):
        packed = pack(tensor.rows(rows))
        yield packed.codes if part == "rows" else getattr(packed, part)


def _slices(shape: tuple[int, ...]) -> Iterator[slice]:
    rows, columns = shape[0], shape[-1] if len(shape) > 1 else 1
    step = max(1, _RUN_VALUES // columns)
    return (slice(start, start + step) for start in range(0, rows, step))

"""Read a written file back and compare it with its checkpoint, tensor by tensor, to the bit.

The file is read by edgepress's own header reader and its blocks are unpacked again, so that a mistake in the order of
tensors, in an offset, in a row order or in the packing shows as different integers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.formats import get_format
from edgepress.artifact.gguf_header import GgufTensorInfo, read_gguf_header
from edgepress.errors import ParityError
from edgepress.export.gguf.blocks import unpack
from edgepress.export.gguf.layout import FileTensor, file_tensors, rope_factors


def verify_gguf(path: Path, checkpoint: Checkpoint) -> None:
    """Compare codes, scales and floats of a GGUF file with the checkpoint it was made from.

    Raises:
        InputError: the file's header is damaged.
        ParityError: a tensor is missing, superfluous or different; names it.
    """
    found = {tensor.name: tensor for tensor in read_gguf_header(path).tensors}
    wanted = file_tensors(checkpoint.plan())
    superfluous = found.keys() - {tensor.name for tensor in wanted}
    if superfluous:
        raise ParityError(f"{path}: tensor {min(superfluous)} is not in the checkpoint")
    for tensor in wanted:
        if tensor.name not in found:
            raise ParityError(f"{path}: tensor {tensor.name} is missing")
        _compare(path, found[tensor.name], tensor, checkpoint)


def _compare(path: Path, stored: GgufTensorInfo, tensor: FileTensor, checkpoint: Checkpoint) -> None:
    if (stored.shape, stored.type) != (tensor.shape, tensor.format.upper()):
        raise ParityError(
            f"{path}: tensor {tensor.name} is {stored.type} {stored.shape}, "
            f"the checkpoint has {tensor.format} {tensor.shape}"
        )
    data = np.memmap(path, dtype=np.uint8, mode="r", offset=stored.offset, shape=(tensor.data_bytes,))
    written = _unpacked(data, tensor)
    for part, values in _expected(tensor, checkpoint).items():
        if not np.array_equal(_bits(written[part]), _bits(values)):
            differing = int(np.count_nonzero(_bits(written[part]) != _bits(values)))
            raise ParityError(
                f"{path}: tensor {tensor.name}: {differing} of {values.size} {part} differ from the checkpoint"
            )


def _unpacked(data: NDArray[np.uint8], tensor: FileTensor) -> dict[str, NDArray[Any]]:
    if get_format(tensor.format).kind == "float":
        return {
            "values": data.view("<f2" if tensor.format == "f16" else "<f4").reshape(tensor.shape).astype(np.float32)
        }
    rows, columns = tensor.shape
    return unpack(tensor.format, data.reshape(rows, -1), columns).parts()


def _expected(tensor: FileTensor, checkpoint: Checkpoint) -> dict[str, NDArray[Any]]:
    """What the file should hold, in the file's row order."""
    if tensor.source is None:
        return {"values": rope_factors(checkpoint.spec)}
    order = tensor.row_order()
    rows = slice(None) if order is None else order
    quantized = checkpoint.quantized(tensor.source)
    if quantized is not None:
        return {part: values[rows] for part, values in quantized.parts().items()}
    values = checkpoint.read(tensor.source)[rows]
    return {"values": values + np.float32(tensor.offset) if tensor.offset else values}  # −0 + 0 would lose its sign


def _bits(values: NDArray[Any]) -> NDArray[Any]:
    """The values as unsigned integers, so that −0 differs from 0 and equal NaNs do not."""
    contiguous = np.ascontiguousarray(values)
    return contiguous.view(f"u{contiguous.dtype.itemsize}")

"""A checkpoint as one GGUF file for llama.cpp, and the size of that file before any weight exists.

    header, metadata, tensor list │ padding │ tensor, padding to 32 bytes, tensor, …

The tensors are streamed one at a time, in file order, so that memory holds one of them whatever the depth. The same
checkpoint always gives the same bytes: nothing in the file depends on the date, the machine or a path.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import FAMILIES
from edgepress.artifact.formats import get_format
from edgepress.artifact.plan import ModelPlan
from edgepress.artifact.quantized import QuantizedTensor
from edgepress.errors import require
from edgepress.export.gguf.blocks import pack
from edgepress.export.gguf.layout import FileTensor, file_tensors, rope_factors
from edgepress.export.gguf.metadata import add_metadata
from edgepress.export.gguf.support import check_gguf_support
from edgepress.export.gguf.tokenizer import add_tokenizer
from edgepress.progress import progress

ALIGNMENT = 32
_VALUES_AT_ONCE = 1 << 22  # packing works on slices of this many values


def export_gguf(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint as ``path``, which should lie in a directory that is renamed when all is done.

    Raises:
        InputError: llama.cpp cannot represent the model, or its tokenizer.
        MissingExtraError: the gguf package is not installed.
        OSError: with ``ENOSPC``, the disk is full.
    """
    plan = checkpoint.plan()
    tensors = file_tensors(plan)
    writer = _write_header(plan, path)
    try:
        with progress("writing GGUF", sum(tensor.data_bytes for tensor in tensors)) as advance:
            for tensor in tensors:
                _write_tensor(writer, path, _tensor_data(tensor, checkpoint))
                advance(tensor.data_bytes)
    finally:
        writer.close()


def predict_gguf_bytes(plan: ModelPlan) -> int:
    """Exact size of the file that :func:`export_gguf` will write; builds the very same metadata, but no weights.

    Raises:
        InputError: llama.cpp cannot represent the model, or its tokenizer.
        MissingExtraError: the gguf package is not installed.
    """
    with TemporaryDirectory(prefix="edgepress-") as working:
        path = Path(working) / "header.gguf"
        _write_header(plan, path).close()
        return _padded(path.stat().st_size) + sum(_padded(tensor.data_bytes) for tensor in file_tensors(plan))


def _write_header(plan: ModelPlan, path: Path) -> Any:
    """Everything up to the tensors' data; returns the open ``gguf.GGUFWriter``."""
    gguf = require("gguf", "gguf")
    check_gguf_support(plan)
    writer = gguf.GGUFWriter(path, FAMILIES[plan.spec.family].architecture(plan.spec))
    add_metadata(writer, plan)
    add_tokenizer(writer, plan)
    for tensor in file_tensors(plan):
        kind = gguf.GGMLQuantizationType[tensor.format.upper()]
        # With a float dtype and a raw type the shape is taken as it is, in values.
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.data_bytes, kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    except OSError:
        with suppress(OSError):  # flushing what did not fit fails again
            writer.close()
        raise
    return writer


def _write_tensor(writer: Any, path: Path, data: NDArray[Any]) -> None:
    try:
        writer.write_tensor_data(data)
    except OSError as error:
        if error.errno is not None:
            raise
        # numpy only says how many items it could not write, and a full disk is why it could not.
        raise OSError(errno.ENOSPC, "No space left on device", str(path)) from error


def _tensor_data(tensor: FileTensor, checkpoint: Checkpoint) -> NDArray[Any]:
    if tensor.source is None:
        return rope_factors(checkpoint.spec)
    order = tensor.row_order()
    quantized = checkpoint.quantized(tensor.source) if get_format(tensor.format).kind != "float" else None
    if quantized is not None:
        return _packed(quantized if order is None else quantized.rows(order))
    values = checkpoint.read(tensor.source)
    values = values if order is None else values[order]
    if tensor.offset:
        values = values + np.float32(tensor.offset)
    return np.ascontiguousarray(values, dtype="<f2" if tensor.format == "f16" else "<f4")


def _packed(tensor: QuantizedTensor) -> NDArray[np.uint8]:
    rows, columns = tensor.shape
    packed = np.empty((rows, tensor.spec.tensor_bytes(columns)), dtype=np.uint8)
    step = max(1, _VALUES_AT_ONCE // columns)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        packed[part] = pack(tensor.rows(part))
    return packed


def _padded(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT

"""An export for TensorRT read back and compared with the checkpoint it came from.

Places, types, axes and block sizes are taken from the file: each matrix is decoded as DequantizeLinear would, and its
integers, scales and values are compared with the checkpoint's to the bit; so is the scale that its input is rounded by.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.float8 import e4m3_codes
from edgepress.errors import ParityError
from edgepress.export.onnx.graph import Initializer
from edgepress.export.onnx.int4 import unpack_int4
from edgepress.export.onnx.pieces import quantized_tensor
from edgepress.export.onnx.verify import OnnxFile, check_floats, check_names, compare
from edgepress.export.tensorrt.decoder import decoder_graph

Array = NDArray[Any]

_INTEGERS = ("levels", "blocks")
_BESIDE_THEM = ("row_scales", "block_scales", "input_scale", "input_scale_float16")


def verify_tensorrt(directory: Path, checkpoint: Checkpoint) -> None:
    """Compare every tensor of an exported directory with the checkpoint.

    Raises:
        ParityError: names the first tensor that differs, or the file that cannot be read.
    """
    file = OnnxFile(directory)
    graph = decoder_graph(checkpoint.plan())
    check_names(file, graph)
    for entry in graph.initializers:
        leaf = entry.name.rpartition(".")[2]
        if leaf in _INTEGERS:
            _check_integers(file, checkpoint, entry)
        elif leaf not in _BESIDE_THEM:
            check_floats(file, checkpoint, entry)


def _check_integers(file: OnnxFile, checkpoint: Checkpoint, entry: Initializer) -> None:
    name = entry.pieces[0].tensor
    tensor, reader = quantized_tensor(checkpoint, name), file.reader(entry.name)
    attributes = file.attributes(entry.name)
    axis, block = attributes.get("axis", 1), attributes.get("block_size", 0)
    levels, scales = _levels(file, entry), file.array(reader.input[1])
    # Blocks run along their axis; a scale per row of the matrix lies along the other one.
    by_rows = axis == 1 if block else axis == 0
    if not by_rows:
        levels, scales = levels.T, scales.T
    codes = e4m3_codes(levels) if tensor.format == "fp8" else levels.astype(np.int16) - int(tensor.spec.levels[0])
    compare(name, codes, tensor.codes)
    compare(name, scales.reshape(tensor.scales.shape), tensor.scales)
    width = block or levels.shape[1]
    spread = np.repeat(scales.reshape(tensor.scales.shape).astype(np.float32), width, axis=1)
    compare(name, tensor.spec.level_array()[codes] * spread, checkpoint.read(name))
    if len(reader.input) > 2:
        raise ParityError(f"{name}: the exported file has a zero point, the checkpoint has none")
    _check_input(file, checkpoint, name, reader.output[0])


def _levels(file: OnnxFile, entry: Initializer) -> Array:
    """Integers, or E4M3's bytes, as they lie in the file."""
    values = file.array(entry.name)
    if entry.dtype != "int4":
        return values
    return unpack_int4(values, file.shape(entry.name)).astype(np.int8) - np.int8(8)


def _check_input(file: OnnxFile, checkpoint: Checkpoint, name: str, weight: str) -> None:
    """The products of a matrix round their inputs by the checkpoint's scale, or not at all."""
    scale = checkpoint.activation_scales.get(name)
    wanted = None if scale is None else (checkpoint.activation_format, scale)
    for product in file.products(weight):
        if file.rounding_of(product.input[0], name) != wanted:
            raise ParityError(f"{name}: the exported file rounds its input by another scale than the checkpoint")

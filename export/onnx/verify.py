"""An exported directory read back and compared with the checkpoint it came from.

Places, types and attributes are taken from the file: each matrix is unpacked as the operator that reads it would, and
its integers, scales and values are compared with the checkpoint's to the bit. The values of formats with a minimum
are d·(c - z) + o in the file and d·c + m in the checkpoint; there the integers, d and o are compared to the bit, and
the values to within the rounding of o, :data:`AFFINE_ULPS` float32 units of the largest term.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.errors import ParityError, require
from edgepress.export.onnx.decoder import decoder_graph
from edgepress.export.onnx.genai import MODEL_FILE
from edgepress.export.onnx.graph import Graph, Initializer, Packed, Static
from edgepress.export.onnx.matmulnbits import PackedTensor, dequantize, pack, unpack
from edgepress.export.onnx.pieces import piece_runs, quantized_tensor
from edgepress.export.onnx.proto import DATA_FILE
from edgepress.export.onnx.qdq import ZERO_POINT

AFFINE_ULPS = 4

_STACKED = get_args(Packed)
_STATIC = get_args(Static)

Array = NDArray[Any]


def verify_onnx(directory: Path, checkpoint: Checkpoint) -> None:
    """Compare every tensor of an exported directory with the checkpoint.

    Raises:
        ParityError: names the first tensor that differs, or the file that cannot be read.
    """
    file = OnnxFile(directory)
    graph = decoder_graph(checkpoint.plan())
    check_names(file, graph)
    stacks: dict[str, list[Initializer]] = defaultdict(list)
    for entry in graph.initializers:
        label, _, part = entry.name.rpartition(".")
        if part in _STACKED:
            stacks[label].append(entry)
        elif part == "levels":
            _check_static(file, checkpoint, entry.pieces[0].tensor, label)
        elif part not in _STATIC:
            check_floats(file, checkpoint, entry)
    for entries in stacks.values():
        _check_stack(file, checkpoint, entries)


class OnnxFile:
    """``model.onnx`` and its data: arrays by initializer name, attributes by the initializer that a node reads."""

    def __init__(self, directory: Path) -> None:
        onnx = require("onnx", "onnx")
        self._helper = require("onnx.helper", "onnx")
        self._int4, self._float8 = onnx.TensorProto.INT4, onnx.TensorProto.FLOAT8E4M3FN
        self._data = directory / DATA_FILE
        try:
            graph = onnx.load(str(directory / MODEL_FILE), load_external_data=False).graph
            self._bytes = np.memmap(self._data, dtype=np.uint8, mode="r")
        except Exception as error:  # protobuf's exception classes have no stable place to be imported from
            raise ParityError(f"{directory}: the exported model cannot be read back ({error})") from error
        self._tensors = {tensor.name: tensor for tensor in graph.initializer if tensor.external_data}
        self._nodes = list(graph.node)
        self._readers = {name: node for node in graph.node for name in node.input}
        self._makers = {name: node for node in graph.node for name in node.output}
        inside = [tensor for tensor in graph.initializer if not tensor.external_data]
        self._bytes_inside = {tensor.name: tensor.raw_data for tensor in inside}
        rounded = {onnx.TensorProto.INT8: "int8", onnx.TensorProto.FLOAT8E4M3FN: "fp8"}
        self._types_inside = {tensor.name: rounded.get(tensor.data_type, "") for tensor in inside}

    @property
    def names(self) -> set[str]:
        """Initializers whose bytes are in the data file."""
        return set(self._tensors)

    def array(self, name: str) -> Array:
        """An initializer's values; of int4 and float8 ones the bytes."""
        tensor = self._tensors[name]
        place = {entry.key: entry.value for entry in tensor.external_data}
        start, length = int(place["offset"]), int(place["length"])
        if start + length > self._bytes.size:
            wanted = f"{start + length} bytes wanted, {self._bytes.size} there"
            raise ParityError(f"{self._data}: ends before {name} does ({wanted})")
        if tensor.data_type == self._int4:
            return self._bytes[start : start + length]
        if tensor.data_type == self._float8:
            return self._bytes[start : start + length].reshape(tuple(tensor.dims))
        dtype = np.dtype(self._helper.tensor_dtype_to_np_dtype(tensor.data_type)).newbyteorder("<")
        values: Array = self._bytes[start : start + length].view(dtype).reshape(tuple(tensor.dims))
        return values

    def attributes(self, name: str) -> dict[str, int]:
        """Integer attributes of the operator that reads an initializer."""
        return {attribute.name: attribute.i for attribute in self._readers[name].attribute}

    def shape(self, name: str) -> tuple[int, ...]:
        """An initializer's shape."""
        return tuple(self._tensors[name].dims)

    def reader(self, name: str) -> Any:
        """The operator that reads an initializer."""
        return self._readers[name]

    def products(self, weight: str) -> list[Any]:
        """The MatMuls whose second input is a weight, or its transpose."""
        found = []
        for node in self._nodes:
            if node.op_type == "MatMul" and node.input[1] == weight:
                found.append(node)
            elif node.op_type == "Transpose" and node.input[0] == weight:
                found += self.products(node.output[0])
        return found

    def rounding_of(self, x: str, name: str) -> tuple[str, float] | None:
        """What an input is rounded to, int8 or fp8, and the scale that makes it a float again; None for floats."""
        to_float = self._makers[x]
        if to_float.op_type != "DequantizeLinear":
            return None
        to_integer = self._makers[to_float.input[0]]
        scales = {float(self.array(node.input[1])) for node in (to_integer, to_float)}
        zeros = [node.input[2] for node in (to_integer, to_float)]
        types = {self._types_inside[zero] for zero in zeros}
        if len(scales) > 1 or len(types) > 1 or {bytes(self._bytes_inside[zero]) for zero in zeros} != {b"\0"}:
            raise ParityError(f"{name}: its input is rounded by one scale and made a float by another")
        return types.pop(), scales.pop()

    def rounding(self, levels: str) -> tuple[float, int]:
        """Scale and zero point of the input that a matrix of int8 levels multiplies, the same when it is rounded as
        when it is made a float again.
        """
        product = self._readers[self._readers[levels].output[0]]
        to_float = self._makers[product.input[0]]
        to_integer = self._makers[to_float.input[0]]
        if to_float.input[1:] != to_integer.input[1:]:
            raise ParityError(f"{levels}: its input is rounded by one scale and made a float by another")
        scale, zero = to_integer.input[1:]
        return float(self.array(scale)), self._bytes_inside[zero][0]


def check_names(file: OnnxFile, graph: Graph) -> None:
    """The file has the initializers that it should have."""
    wanted = {entry.name for entry in graph.initializers}
    if wanted != file.names:
        odd = sorted(wanted ^ file.names)[0]
        raise ParityError(f"{odd}: in {'the file' if odd in file.names else 'the checkpoint'} only")


def check_floats(file: OnnxFile, checkpoint: Checkpoint, entry: Initializer) -> None:
    """The file's values are those that belong there, whatever type they are stored in."""
    stored = file.array(entry.name).reshape(-1).astype(np.float32)
    start = 0
    for piece in entry.pieces:
        for run in piece_runs(checkpoint, piece):
            compare(piece.tensor or entry.name, stored[start : start + run.size], run.reshape(-1))
            start += run.size


def _check_stack(file: OnnxFile, checkpoint: Checkpoint, entries: list[Initializer]) -> None:
    """Matrices stacked along the rows: codes, in one or two shapes, scales and offsets."""
    arrays = {entry.name.rpartition(".")[2]: file.array(entry.name) for entry in entries}
    views = [entry for entry in entries if entry.dtype == "uint8"]
    names = [piece.tensor for piece in views[0].pieces]
    for view in views:
        attributes = file.attributes(view.name)
        codes = file.array(view.name).reshape(view.shape[0], -1, attributes["block_size"] * attributes["bits"] // 8)
        start = 0
        for name in names:
            rows = slice(start, start + checkpoint.shape(name)[0])
            offsets = arrays["offsets"][rows] if "offsets" in arrays else None
            part = PackedTensor(codes=codes[rows], scales=arrays["scales"][rows], offsets=offsets)
            _check_matrix(name, checkpoint, part, attributes["bits"])
            start = rows.stop


def _check_static(file: OnnxFile, checkpoint: Checkpoint, name: str, label: str) -> None:
    """A matrix with static int8 inputs: levels, row scales, the values they make, and the scale of the input."""
    tensor = quantized_tensor(checkpoint, name)
    levels, scales = file.array(f"{label}.levels").T, file.array(f"{label}.row_scales")
    compare(name, levels.astype(np.int16) + 128, tensor.codes)
    compare(name, scales, tensor.scales[:, 0])
    compare(name, levels.astype(np.float32) * scales[:, None], checkpoint.read(name))
    if file.rounding(f"{label}.levels") != (checkpoint.activation_scales[name], ZERO_POINT):
        raise ParityError(f"{name}: the exported file rounds its input by another scale than the checkpoint")


def _check_matrix(name: str, checkpoint: Checkpoint, stored: PackedTensor, bits: int) -> None:
    tensor = quantized_tensor(checkpoint, name)
    try:
        codes = unpack(stored, tensor.format)
    except ValueError as error:
        raise ParityError(f"{name}: {error}") from error
    compare(name, codes, tensor.codes)
    packed = pack(tensor)
    compare(name, stored.scales, packed.scales)
    values, wanted = dequantize(stored, bits), checkpoint.read(name)
    if stored.offsets is None:
        compare(name, values, wanted)
        return
    compare(name, stored.offsets, packed.offsets)
    largest = np.abs(stored.scales) * np.float32(1 << bits) + np.abs(stored.offsets)
    allowed = AFFINE_ULPS * np.finfo(np.float32).eps * largest
    apart = np.abs(values - wanted) > np.repeat(allowed, tensor.block_size, axis=1)
    if apart.any():
        raise ParityError(f"{name}: {int(apart.sum())} values differ from the checkpoint's by more than rounding")


def compare(name: str, found: Array | None, wanted: Array | None) -> None:
    """Equality of values; 0 and -0 are alike, their products are the same."""
    if found is None or wanted is None or not np.array_equal(found, wanted):
        raise ParityError(f"{name}: the exported file differs from the checkpoint")

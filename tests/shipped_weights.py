"""The matrices inside exported files, decoded without edgepress: by the gguf package, and by the operators' definition.

Files differ in how they stack, order and permute rows, so a model's matrices are compared as bags of rows: each row as
bytes, sorted. That every row is in its place is what the logits show.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def row_bag(matrices: list[Floats]) -> list[bytes]:
    """All rows of all matrices, sorted; 0 and -0 are alike."""
    return sorted((row + np.float32(0)).tobytes() for matrix in matrices for row in matrix)


def gguf_matrices(path: Path) -> list[Floats]:
    """Every two-dimensional tensor of a GGUF file, float32, by the gguf package."""
    import gguf

    tensors = [tensor for tensor in gguf.GGUFReader(path).tensors if len(tensor.shape) == 2]
    return [np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32) for tensor in tensors]


def onnx_matrices(directory: Path) -> list[Floats]:
    """Every matrix that a product or a lookup of the graph reads, float32, each stored place once."""
    import onnx
    from onnx.external_data_helper import load_external_data_for_tensor

    graph = onnx.load(str(directory / "model.onnx"), load_external_data=False).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    casts = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    found: dict[str, Floats] = {}

    def array(name: str) -> NDArray[Any]:
        tensor = onnx.TensorProto.FromString(stored[name].SerializeToString())
        load_external_data_for_tensor(tensor, str(directory))
        tensor.data_location = onnx.TensorProto.DEFAULT
        return np.asarray(onnx.numpy_helper.to_array(tensor))

    for node in graph.node:
        place = _MATRIX_INPUT.get(node.op_type)
        if place is None:
            continue
        name = casts.get(node.input[place], node.input[place])
        if name not in stored or not stored[name].external_data:
            continue
        offset = next(entry.value for entry in stored[name].external_data if entry.key == "offset")
        if node.op_type in ("MatMulNBits", "GatherBlockQuantized"):
            bits = next(attribute.i for attribute in node.attribute if attribute.name == "bits")
            found[offset] = _from_codes(array(name), array(node.input[2]), bits)
        else:
            found[offset] = array(name).astype(np.float32)
    return list(found.values())


_MATRIX_INPUT = {"MatMulNBits": 1, "FusedMatMul": 1, "GatherBlockQuantized": 0, "Gather": 0}


def _from_codes(codes: NDArray[np.uint8], scales: Floats, bits: int) -> Floats:
    """w = s · (q - 2^(bits-1)), the lower nibble first."""
    rows = len(codes)
    flat = codes.reshape(rows, -1)
    if bits == 4:
        flat = np.stack([flat & 15, flat >> 4], axis=-1).reshape(rows, -1)
    levels = flat.astype(np.float32) - np.float32(2 ** (bits - 1))
    values: Floats = (levels.reshape(*scales.shape, -1) * scales[..., None]).reshape(rows, -1)
    return values

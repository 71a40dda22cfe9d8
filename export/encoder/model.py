"""An ONNX model in memory, with the few questions that rewriting it asks: who reads a value, and what is in it.

Initializers are never changed in place: the exporter keeps one copy of equal tensors, so a bias of zeros may belong to
several operators.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import require

Array = NDArray[Any]


class OnnxModel:
    """A ModelProto and its indexes. Nodes are protobuf messages; ``values`` reads an initializer."""

    def __init__(self, proto: Any) -> None:
        self.proto = proto
        self._numpy = require("onnx.numpy_helper", "onnx")
        self._helper = require("onnx.helper", "onnx")
        self._constants = {tensor.name: tensor for tensor in proto.graph.initializer}

    @property
    def nodes(self) -> list[Any]:
        """Operators in order of computation."""
        return list(self.proto.graph.node)

    @property
    def outputs(self) -> set[str]:
        """Names of the graph's outputs."""
        return {value.name for value in self.proto.graph.output}

    def readers(self, name: str) -> list[Any]:
        """The operators that read a value."""
        return [node for node in self.proto.graph.node if name in node.input]

    def values(self, name: str) -> Array | None:
        """An initializer's values; None when the name is not one."""
        tensor = self._constants.get(name)
        return None if tensor is None else np.asarray(self._numpy.to_array(tensor))

    def add(self, name: str, values: Array) -> str:
        """Add an initializer; return its name."""
        assert name not in self._constants, f"{name}: added twice"
        as_is = np.asarray(values, order="C")  # unlike ascontiguousarray it leaves a scalar one
        self.proto.graph.initializer.append(self._numpy.from_array(as_is, name))
        self._constants[name] = self.proto.graph.initializer[-1]
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        """A new operator, not yet in the graph."""
        return self._helper.make_node(op, inputs, [output], name=output, **attributes)

    def replace_nodes(self, nodes: list[Any]) -> None:
        """Set the operators and drop the initializers that none of them reads."""
        kept = [_copy(node) for node in nodes]  # the list may hold messages of this very graph
        del self.proto.graph.node[:]
        self.proto.graph.node.extend(kept)
        read = {name for node in kept for name in node.input} | self.outputs
        live = [_copy(tensor) for tensor in self.proto.graph.initializer if tensor.name in read]
        del self.proto.graph.initializer[:]
        self.proto.graph.initializer.extend(live)
        self._constants = {tensor.name: tensor for tensor in self.proto.graph.initializer}


def linears(model: OnnxModel) -> list[Any]:
    """The products of a sequence with a constant matrix, (columns, rows), that are quantized.

    Left as floats: heads that see one token per input (``Gemm``) and whatever makes an output of the graph. They are
    few bytes, and a classifier's scores rest on them alone.
    """
    found = []
    for node in model.nodes:
        if node.op_type != "MatMul":
            continue
        weight = model.values(node.input[1])
        if weight is not None and weight.ndim == 2 and not _makes_output(model, node):
            found.append(node)
    return found


def _makes_output(model: OnnxModel, node: Any) -> bool:
    names = [node.output[0]] + [
        out for add in model.readers(node.output[0]) if add.op_type == "Add" for out in add.output
    ]
    return bool(model.outputs & set(names))


def _copy(message: Any) -> Any:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied

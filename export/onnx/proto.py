"""Records → the protobuf of an ONNX model, deterministic to the byte.

Opset 21 of ONNX (Gelu came with 20, int4 with 21), 1 of com.microsoft where a node is from there, IR version 10: what
onnxruntime has read since 1.18.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgepress import __version__
from edgepress.errors import require
from edgepress.export.onnx.graph import MICROSOFT, Constant, Float8, Graph, Initializer, Node, Value

DATA_FILE = "model.onnx.data"

_OPSETS = {"": 21, MICROSOFT: 1}
_IR_VERSION = 10
# TensorProto.DataType
_TYPES = {
    "uint8": 2,
    "int8": 3,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float32": 1,
    "float8e4m3fn": 17,
    "int4": 22,
}


def serialize(graph: Graph, name: str) -> bytes:
    """The bytes of ``model.onnx``; weights are references into :data:`DATA_FILE`."""
    helper = require("onnx.helper", "onnx")
    domains = dict.fromkeys(("", *(node.domain for node in graph.nodes)))
    proto = helper.make_graph(
        [_node(helper, node) for node in graph.nodes],
        name,
        [_value(helper, value) for value in graph.inputs],
        [_value(helper, value) for value in graph.outputs],
        [_constant(helper, key, value) for key, value in graph.constants.items()]
        + [_external(entry) for entry in graph.initializers],
    )
    model = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid(domain, _OPSETS[domain]) for domain in domains],
        ir_version=_IR_VERSION,
        producer_name="edgepress",
        producer_version=__version__,
    )
    return bytes(model.SerializeToString(deterministic=True))


def _node(helper: Any, node: Node) -> Any:
    attributes = dict(node.attributes)
    if node.op == "Cast":
        attributes["to"] = _TYPES[attributes["to"]]
    return helper.make_node(node.op, node.inputs, node.outputs, name=node.outputs[0], domain=node.domain, **attributes)


def _value(helper: Any, value: Value) -> Any:
    return helper.make_tensor_value_info(value.name, _TYPES[value.dtype], value.shape)


def _constant(helper: Any, name: str, value: Constant) -> Any:
    if isinstance(value, Float8):
        return helper.make_tensor(name, _TYPES["float8e4m3fn"], [], bytes([value.byte]), raw=True)
    if isinstance(value, np.integer):
        return helper.make_tensor(name, _TYPES[value.dtype.name], [], value.tobytes(), raw=True)
    if isinstance(value, bytes):
        return helper.make_tensor(name, _TYPES["uint8"], [], value, raw=True)
    if isinstance(value, float):
        return helper.make_tensor(name, _TYPES["float32"], [], [value])
    return helper.make_tensor(name, _TYPES["int64"], [len(value)], value)


def _external(entry: Initializer) -> Any:
    onnx = require("onnx", "onnx")
    tensor = onnx.TensorProto(
        name=entry.name,
        data_type=_TYPES[entry.dtype],
        dims=entry.shape,
        data_location=onnx.TensorProto.EXTERNAL,
    )
    for key, value in (("location", DATA_FILE), ("offset", entry.offset), ("length", entry.length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor

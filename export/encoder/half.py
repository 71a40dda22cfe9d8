"""A float32 graph → float16 throughout: strongly typed TensorRT computes in the types that it reads.

Every float becomes float16, constants and casts included; inputs and outputs stay float32 behind a Cast, and so do
norms between two (:mod:`~edgepress.export.encoder.whole`). Constants beyond float16, such as the mask's -3.4e38, are
cut to ±60000, which a softmax takes as well and which a sum with a score cannot push to infinity.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgepress.errors import InputError, require
from edgepress.export.encoder.model import OnnxModel
from edgepress.export.encoder.whole import keep_norms_whole

LARGEST = 60000.0
_FLOAT, _HALF = 1, 10  # TensorProto.DataType
_FLOAT32_ONLY = {"Resize", "NonMaxSuppression", "Upsample"}


def make_half(model: OnnxModel) -> None:
    """Change the types of a graph in place.

    Raises:
        InputError: an operator that takes float32 alone.
    """
    graph, helper = model.proto.graph, require("onnx.numpy_helper", "onnx")
    for node in graph.node:
        if node.op_type in _FLOAT32_ONLY:
            raise InputError(f"{node.name or node.op_type}: {node.op_type} has no float16 form; use --dtype float32")
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _halve(attribute.t, helper)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _FLOAT:
                attribute.i = _HALF
    whole = keep_norms_whole(model)
    for tensor in graph.initializer:
        if tensor.name not in whole:
            _halve(tensor, helper)
    _cast_ends(model)


def _halve(tensor: Any, helper: Any) -> None:
    if tensor.data_type == _FLOAT:
        values = np.clip(helper.to_array(tensor), -LARGEST, LARGEST).astype(np.float16)
        tensor.CopyFrom(helper.from_array(values, tensor.name))


def _cast_ends(model: OnnxModel) -> None:
    """Casts behind float inputs and before float outputs; a value that is also read inside keeps its half form."""
    nodes = model.nodes
    before, after, renamed = [], [], {}
    for value in model.proto.graph.input:
        if value.type.tensor_type.elem_type == _FLOAT:
            renamed[value.name] = f"{value.name}.half"
            before.append(model.node("Cast", [value.name], f"{value.name}.half", to=_HALF))
    for value in model.proto.graph.output:
        if value.type.tensor_type.elem_type == _FLOAT:
            renamed[value.name] = f"{value.name}.half"
            after.append(model.node("Cast", [f"{value.name}.half"], value.name, to=_FLOAT))
    for node in nodes:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = renamed.get(name, name)
    model.replace_nodes([*before, *nodes, *after])

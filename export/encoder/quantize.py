"""Explicit Q/DQ around the linears: int8 weights per output channel, int8 inputs with one static scale.

    x ── QuantizeLinear ── DequantizeLinear ──┐
                                              MatMul ── …
    int8 (columns, rows) ── DequantizeLinear ─┘

Strongly typed TensorRT takes the pair as the type of the product and computes it in INT8; ONNX Runtime does the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.export.encoder.model import OnnxModel, linears
from edgepress.export.encoder.rounding import choose_rounding, quantize_columns, round_scale
from edgepress.export.encoder.smooth import smooth
from edgepress.progress import progress


def quantize(model: OnnxModel, rows: Mapping[str, NDArray[np.float32]]) -> tuple[list[str], list[str]]:
    """Put all linears of a float32 graph on int8.

    Args:
        model: the graph, changed in place; its scales stay float32 until the graph is made half precision.
        rows: calibration rows of every linear's input, by value name.

    Returns:
        Names of the linears, and of the inputs that got channel factors.

    Raises:
        InputError: no linears in this model.
    """
    groups: dict[str, list[Any]] = {}
    for node in linears(model):
        groups.setdefault(node.input[0], []).append(node)
    if not groups:
        raise InputError("no product of a sequence with a matrix in this model; there is nothing to quantize")
    chosen = {}
    with progress("scales", len(groups)) as advance:
        for name, nodes in groups.items():
            chosen[name] = choose_rounding(rows[name], np.concatenate([_weight(model, node) for node in nodes], axis=1))
            advance(1)
    factors = {name: found.factors for name, found in chosen.items() if found.factors is not None}
    renamed = smooth(model, factors)
    scales = {renamed.get(name, name): found.scale for name, found in chosen.items()}
    return insert_qdq(model, scales), sorted(factors)


def insert_qdq(model: OnnxModel, scales: Mapping[str, float]) -> list[str]:
    """Surround every linear; ``scales`` are those of the inputs, by value name. Returns the linears' names."""
    products = [node.output[0] for node in linears(model)]
    nodes: list[Any] = []
    rounded: set[str] = set()
    for node in model.nodes:
        if node.output[0] in products:
            source = node.input[0]
            if source not in rounded:
                nodes += _round_input(model, source, scales[source])
                rounded.add(source)
            nodes.append(_integer_weight(model, node))
            node.input[0], node.input[1] = f"{source}.int8.float", f"{node.output[0]}.weight"
        nodes.append(node)
    model.replace_nodes(nodes)
    return products


def _round_input(model: OnnxModel, name: str, scale: float) -> Sequence[Any]:
    step = model.add(f"{name}.scale", round_scale(scale))
    zero = model.add(f"{name}.zero", np.array(0, np.int8))
    return (
        model.node("QuantizeLinear", [name, step, zero], f"{name}.int8"),
        model.node("DequantizeLinear", [f"{name}.int8", step, zero], f"{name}.int8.float"),
    )


def _integer_weight(model: OnnxModel, node: Any) -> Any:
    label = f"{node.output[0]}.weight"
    codes, scales = quantize_columns(_weight(model, node))
    inputs = [model.add(f"{label}.int8", codes), model.add(f"{label}.scale", scales)]
    return model.node("DequantizeLinear", inputs, label, axis=1)


def _weight(model: OnnxModel, node: Any) -> NDArray[np.float32]:
    values = model.values(node.input[1])
    assert values is not None
    return values.astype(np.float32)

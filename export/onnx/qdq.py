"""W8A8 as standard QDQ: static int8 inputs, int8 weights with a scale per output channel.

    x ─ QuantizeLinear(s, 128) ─ DequantizeLinear ─┐
                                                    MatMul ─ (Add bias)
    W^T, int8 ─ DequantizeLinear(row scales, axis 1) ┘

The input's int8 levels are stored as uint8 with zero point 128: the same numbers, and the only form that ONNX Runtime
1.32 fuses on x86-64 when several products read one input (q, k, v; gate, up). There each product becomes one
MatMulIntegerToFloat over uint8 and int8; with int8 inputs and more than one reader it multiplies dequantized floats,
four times slower. Weights lie as (in, out), as MatMul and that kernel want them, so q, k and v are not one product.

On x86-64 without VNNI instructions, ONNX Runtime's uint8-int8 kernel saturates sums of two products in 16 bits;
:data:`SESSION_OPTIONS` has it turn the weights into uint8 there, which does not.
"""

from __future__ import annotations

from edgepress.export.onnx.graph import Graph, Piece

ZERO_POINT = 128
SESSION_OPTIONS = {"session.x64quantprecision": "1"}


def static_product(graph: Graph, x: str, output: str, *, name: str, label: str, shape: tuple[int, int]) -> str:
    """Nodes for ``x̂ · W^T``; returns ``output``.

    Args:
        graph: where the nodes go.
        x: the input.
        output: name of the product.
        name: Hugging Face name of the weight.
        label: what the initializers are called.
        shape: (rows, columns) of the weight.
    """
    rows, columns = shape
    levels = graph.stored(f"{label}.levels", "int8", (columns, rows), [Piece(tensor=name, part="levels")])
    scales = graph.stored(f"{label}.row_scales", "float32", (rows,), [Piece(tensor=name, part="row_scales")])
    weight = graph.node("DequantizeLinear", [levels, scales], f"{output}/weight", axis=1)
    rounded = graph.once(f"{x}/int8", lambda: _rounded(graph, x, name, label))
    return graph.node("MatMul", [rounded, weight], output)


def _rounded(graph: Graph, x: str, name: str, label: str) -> str:
    scale = graph.stored(f"{label}.input_scale", "float32", (), [Piece(tensor=name, part="input_scale")])
    zero = graph.byte(ZERO_POINT)
    levels = graph.node("QuantizeLinear", [x, scale, zero], f"{x}/levels")
    return graph.node("DequantizeLinear", [levels, scale, zero], f"{x}/int8")

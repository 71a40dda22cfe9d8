"""The nodes of a matrix for TensorRT: float32 in, float32 out, whatever it multiplies inside.

Strong typing makes the type of a product that of its operands, so each format says what it is multiplied in:

    f16                     Cast(x, f16) · W^T
    trt_int4_64, …_128      Cast(x, f16) · DequantizeLinear(int4, f16 scales, blocks along the inputs)
    int8, float inputs      Cast(x, f16) · DequantizeLinear(int8, f16 row scales)
    int8, static inputs     DequantizeLinear(QuantizeLinear(x, s), s, f16) · DequantizeLinear(int8, f16 row scales)
    fp8                     as int8, with E4M3 in its place
    f32                     x · W^T

The results are cast to float32, in which biases, norms, activations and the residual stream are computed: TensorRT
fuses those into few kernels, where the wider type costs little, and models whose residual stream passes float16's 65504
(gemma3) stay finite. Static inputs are rounded from float32, not from float16, whose rounding would carry many of
them into the next level; between int8 operands TensorRT multiplies integers. (Float32 scales on both sides do so as
well, and are refused for SM75.) All scales are float16 values in the checkpoint.

Weights lie as (in, out), blocks along the first axis: the form in which TensorRT keeps them as integers. Matrices of
floats, those that are looked up, too, and int4 of an odd number of outputs (a head) lie as (out, in), and the product
transposes them. TensorRT wants int8 levels
without a zero point, where the export for ONNX Runtime has uint8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgepress.artifact.formats import get_format
from edgepress.artifact.plan import TensorPlan
from edgepress.artifact.tensorrt_layout import NumberType
from edgepress.export.onnx.graph import Dtype, Graph, Part, Piece

Tensors = Mapping[str, TensorPlan]


def number_type(format: str) -> NumberType:
    """The type in which the values of a format are stored."""
    spec = get_format(format)
    if spec.kind == "float":
        return "float16" if format == "f16" else "float32"
    if format == "fp8":
        return "float8"
    return "int4" if spec.bits == 4 else "int8"


class Matrix:
    """One matrix with its initializers in the graph.

    Args:
        graph: where the nodes go.
        tensors: the model's, by name.
        name: Hugging Face name of the weight.
        label: what the initializers are called.
        looked_up: whether rows are looked up, too.
    """

    def __init__(self, graph: Graph, tensors: Tensors, name: str, label: str, *, looked_up: bool = False) -> None:
        self._graph, self._name, self._label, self._looked_up = graph, name, label, looked_up
        plan = tensors[name]
        self.rows, self.columns = plan.shape
        self._spec = get_format(plan.format)
        self._numbers = number_type(plan.format)
        self._static = plan.input_format != "float"
        self._inside: Dtype = "float32" if self._numbers == "float32" else "float16"
        bias = name.removesuffix("weight") + "bias"
        self._bias = self._stored("bias", "values", "float32", (self.rows,), bias) if bias in tensors else ""

    def product(self, x: str, output: str) -> str:
        """Nodes for ``x · W^T + b``, float32; returns ``output``."""
        graph = self._graph
        weight = self._values() if self._by_rows else self._dequantized()
        if self._by_rows:
            weight = graph.node("Transpose", [weight], f"{self._label}/transposed", perm=[1, 0])
        product = f"{output}/product" if self._bias or self._inside == "float16" else output
        graph.node("MatMul", [self._input(x), weight], product)
        if self._inside == "float16":
            product = graph.node("Cast", [product], f"{output}/float32" if self._bias else output, to="float32")
        return graph.node("Add", [product, self._bias], output) if self._bias else product

    def lookup(self, ids: str, output: str) -> str:
        """Nodes for the rows of ``ids``; returns ``output``, float32 (batch, sequence, columns)."""
        graph, values = self._graph, self._values()
        if self._inside == "float32":
            return graph.node("Gather", [values, ids], output)
        rows = graph.node("Gather", [values, ids], f"{output}/rows")
        return graph.node("Cast", [rows], output, to="float32")

    @property
    def _by_rows(self) -> bool:
        return self._looked_up or self._spec.kind == "float" or self._ends_within_a_byte

    def _input(self, x: str) -> str:
        graph = self._graph
        if self._static:
            return graph.once(f"{x}/{self._numbers}", lambda: self._rounded(x))
        if self._inside == "float32":
            return x
        return graph.once(f"{x}/float16", lambda: graph.node("Cast", [x], f"{x}/float16", to="float16"))

    def _rounded(self, x: str) -> str:
        graph = self._graph
        zero = graph.float8_zero() if self._numbers == "float8" else graph.signed_byte(0)
        scale = self._stored("input_scale", "input_scale", "float32", ())
        half = self._stored("input_scale_float16", "input_scale", "float16", ())
        rounded = f"{x}/{self._numbers}"
        levels = graph.node("QuantizeLinear", [x, scale, zero], f"{rounded}_levels")
        return graph.node("DequantizeLinear", [levels, half, zero], rounded)

    def _values(self) -> str:
        """The matrix as (rows, columns), in the type that it is multiplied in."""
        shape = (self.rows, self.columns)
        if self._spec.kind == "float":
            return self._stored("values", "values", self._inside, shape)
        if self._spec.kind == "channel":
            levels = self._stored("levels", "level_rows", self._bytes, shape)
            scales = self._stored("row_scales", "row_scales", self._inside, (self.rows,))
            return self._dequantize(levels, scales, axis=0)
        levels = self._stored("blocks", "block_rows", "int4", shape)
        scales = self._stored("block_scales", "block_row_scales", "float16", (self.rows, self._blocks))
        return self._dequantize(levels, scales, axis=1, block_size=self._spec.block)

    def _dequantized(self) -> str:
        """The integers as (columns, rows), in the type that they are multiplied in."""
        shape = (self.columns, self.rows)
        if self._spec.kind == "channel":
            levels = self._stored("levels", "levels", self._bytes, shape)
            scales = self._stored("row_scales", "row_scales", self._inside, (self.rows,))
            return self._dequantize(levels, scales, axis=1)
        levels = self._stored("blocks", "blocks", "int4", shape)
        scales = self._stored("block_scales", "block_scales", "float16", (self._blocks, self.rows))
        return self._dequantize(levels, scales, axis=0, block_size=self._spec.block)

    @property
    def _ends_within_a_byte(self) -> bool:
        """An odd number of int4 outputs: TensorRT 10 packs along the last dimension and wants an even one."""
        return self._numbers == "int4" and self.rows % 2 == 1

    @property
    def _bytes(self) -> Dtype:
        return "float8e4m3fn" if self._numbers == "float8" else "int8"

    @property
    def _blocks(self) -> int:
        return self.columns // self._spec.block

    def _dequantize(self, levels: str, scales: str, *, axis: int, block_size: int = 0) -> str:
        output, graph = f"{self._label}/dequantized", self._graph
        attributes: dict[str, Any] = {"axis": axis} | ({"block_size": block_size} if block_size else {})
        return graph.once(output, lambda: graph.node("DequantizeLinear", [levels, scales], output, **attributes))

    def _stored(self, leaf: str, part: Part, dtype: Dtype, shape: tuple[int, ...], tensor: str = "") -> str:
        name = f"{self._label}.{leaf}"
        if name in self._graph:
            return name
        return self._graph.stored(name, dtype, shape, [Piece(tensor=tensor or self._name, part=part)])

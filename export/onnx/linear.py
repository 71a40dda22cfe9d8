"""The nodes of a matrix: a product with it, or a lookup of its rows, in whichever format it ships.

    block format            MatMulNBits(x, codes, scales, bias)
    with a minimum          the same + block sums of x times the offsets  (see :mod:`edgepress.export.onnx.matmulnbits`)
    int8, static inputs     MatMul between QuantizeLinear and DequantizeLinear  (see :mod:`edgepress.export.onnx.qdq`)
    f32, f16                FusedMatMul(x, W^T), W as Hugging Face stores it, (out, in); f16 is cast on loading
    lookup                  GatherBlockQuantized(codes, ids, scales) or Gather

A tied embedding is stored once. The two operators want the codes in different shapes, (rows, blocks, bytes) and
(rows, bytes), so two initializers name the same bytes of the data file; both default to the zero point 2^(bits-1), and
the lookup's values are those of ``QuantizedTensor.dequantize`` to the bit. Measured in onnxruntime 1.32 for 4 and
8 bits, blocks of 16 and 32. (A Reshape of the codes instead, as in onnxruntime-genai's builder, is folded into a
second copy in memory.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgepress.artifact.formats import get_format
from edgepress.artifact.plan import TensorPlan
from edgepress.export.onnx.graph import MICROSOFT, Dtype, Graph, Part, Piece
from edgepress.export.onnx.matmulnbits import Grid, grid
from edgepress.export.onnx.qdq import static_product

Tensors = Mapping[str, TensorPlan]

# Lowest precision of the input inside MatMulNBits: 0 leaves float32, 4 allows int8, as every engine on CPUs does.
INT8_ACTIVATIONS = 4


class Matrix:
    """One matrix, or several of one format stacked along the rows, with its initializers in the graph.

    ``names`` are Hugging Face names; ``label`` names the stack.
    """

    def __init__(self, graph: Graph, tensors: Tensors, names: Sequence[str], label: str) -> None:
        self._graph = graph
        self._names = tuple(names)
        self._label = label
        first = tensors[names[0]]
        self.rows = sum(tensors[name].shape[0] for name in names)
        self.columns = first.shape[1]
        self._format = first.format
        self._static = first.input_format != "float"
        self._bias = self._store_bias(tensors)

    def product(self, x: str, output: str, *, accuracy_level: int) -> str:
        """Nodes for ``x · W^T + b``; returns ``output``."""
        if get_format(self._format).kind == "float":
            return self._dense_product(x, output)
        if self._static:
            return self._static_product(x, output)
        layout = grid(self._format)
        quantized = f"{output}/grid" if layout.affine else output
        inputs = [x, self._codes(layout), self._scales(layout)]
        if self._bias:
            inputs += ["", "", self._bias]
        self._graph.node(
            "MatMulNBits",
            inputs,
            quantized,
            domain=MICROSOFT,
            K=self.columns,
            N=self.rows,
            bits=layout.bits,
            block_size=layout.block,
            accuracy_level=accuracy_level,
        )
        if layout.affine:
            self._add_offsets(x, quantized, output, layout)
        return output

    def lookup(self, ids: str, output: str) -> str:
        """Nodes for the rows of ``ids``; returns ``output``, float32 (batch, sequence, columns)."""
        graph = self._graph
        if get_format(self._format).kind == "float":
            raw = graph.node("Gather", [self._values(), ids], output if self._dtype == "float32" else f"{output}/raw")
            return raw if self._dtype == "float32" else graph.node("Cast", [raw], output, to="float32")
        layout = grid(self._format)
        rows = graph.node(
            "GatherBlockQuantized",
            [self._rows(layout), ids, self._scales(layout)],
            f"{output}/grid" if layout.affine else output,
            domain=MICROSOFT,
            bits=layout.bits,
            block_size=layout.block,
            gather_axis=0,
            quantize_axis=1,
        )
        return self._gather_offsets(rows, ids, output, layout) if layout.affine else output

    @property
    def _dtype(self) -> Dtype:
        return "float16" if self._format == "f16" else "float32"

    def _dense_product(self, x: str, output: str) -> str:
        weight = self._values()
        if self._dtype != "float32":
            weight = self._cast(weight)
        product = f"{output}/product" if self._bias else output
        self._graph.node("FusedMatMul", [x, weight], product, domain=MICROSOFT, transB=1)
        return self._graph.node("Add", [product, self._bias], output) if self._bias else output

    def _static_product(self, x: str, output: str) -> str:
        (name,) = self._names
        shape = (self.rows, self.columns)
        product = f"{output}/product" if self._bias else output
        static_product(self._graph, x, product, name=name, label=self._label, shape=shape)
        return self._graph.node("Add", [product, self._bias], output) if self._bias else output

    def _add_offsets(self, x: str, quantized: str, output: str, layout: Grid) -> None:
        graph, blocks = self._graph, layout.blocks(self.columns)
        sums = graph.once(f"{x}/sums{layout.block}", lambda: _block_sums(graph, x, blocks, layout.block))
        graph.node("FusedMatMul", [sums, self._offsets(layout)], f"{output}/offsets", domain=MICROSOFT, transB=1)
        graph.node("Add", [quantized, f"{output}/offsets"], output)

    def _gather_offsets(self, rows: str, ids: str, output: str, layout: Grid) -> str:
        graph, blocks = self._graph, layout.blocks(self.columns)
        blocked = graph.node("Reshape", [rows, graph.integers(0, 0, blocks, layout.block)], f"{output}/blocked")
        offsets = graph.node("Gather", [self._offsets(layout), ids], f"{output}/offsets")
        column = graph.node("Unsqueeze", [offsets, graph.integers(-1)], f"{output}/column")
        total = graph.node("Add", [blocked, column], f"{output}/total")
        return graph.node("Reshape", [total, graph.integers(0, 0, self.columns)], output)

    def _codes(self, layout: Grid) -> str:
        """The codes as a product wants them, (rows, blocks, bytes)."""
        return self._store("codes", "uint8", layout.codes_shape(self.rows, self.columns), same_as="rows")

    def _rows(self, layout: Grid) -> str:
        """The codes as a lookup wants them, (rows, bytes)."""
        return self._store("rows", "uint8", (self.rows, self.columns * layout.bits // 8), same_as="codes")

    def _scales(self, layout: Grid) -> str:
        return self._store("scales", "float32", (self.rows, layout.blocks(self.columns)))

    def _offsets(self, layout: Grid) -> str:
        return self._store("offsets", "float32", (self.rows, layout.blocks(self.columns)))

    def _values(self) -> str:
        return self._store("values", self._dtype, (self.rows, self.columns))

    def _store(self, part: Part, dtype: Dtype, shape: tuple[int, ...], same_as: str = "") -> str:
        """The initializer of a part; a view, where the same bytes are stored under another name already."""
        graph, name, twin = self._graph, f"{self._label}.{part}", f"{self._label}.{same_as}"
        if name in graph:
            return name
        if twin in graph:
            return graph.view(name, twin, shape)
        return graph.stored(name, dtype, shape, [Piece(tensor=tensor, part=part) for tensor in self._names])

    def _store_bias(self, tensors: Tensors) -> str:
        """The stacked biases, zeros where a matrix of the stack has none; an empty name when none has one."""
        biases = [name.removesuffix("weight") + "bias" for name in self._names]
        if not any(bias in tensors for bias in biases):
            return ""
        pieces = [
            Piece(tensor=bias, part="values") if bias in tensors else Piece(tensor=weight, part="zeros")
            for bias, weight in zip(biases, self._names, strict=True)
        ]
        return self._graph.stored(f"{self._label}.bias", "float32", (self.rows,), pieces)

    def _cast(self, name: str) -> str:
        """An initializer as float32; ONNX Runtime folds the Cast when it loads the model."""
        return self._graph.node("Cast", [name], f"{name}/float32", to="float32")


def _block_sums(graph: Graph, x: str, blocks: int, block: int) -> str:
    """Sums of x over the blocks of its last axis, float32 (batch, sequence, blocks)."""
    blocked = graph.node("Reshape", [x, graph.integers(0, 0, blocks, block)], f"{x}/blocks{block}")
    return graph.node("ReduceSum", [blocked, graph.integers(-1)], f"{x}/sums{block}", keepdims=0)

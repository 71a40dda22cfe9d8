"""Products as an ONNX export holds them, in files of their own: the exporter's nodes, with random weights.

Each product of the graph has an input of its own, as in a model: what the exporter computes once per input (the block
sums of formats with a minimum) is computed once per product.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.plan import TensorPlan
from edgepress.export.onnx.graph import Graph, Initializer, Value
from edgepress.export.onnx.linear import INT8_ACTIVATIONS, Matrix
from edgepress.export.onnx.matmulnbits import held_formats
from edgepress.export.onnx.proto import DATA_FILE, serialize
from edgepress.runtime.ort_product import OrtProduct

_PATTERN_VALUES = 1 << 20
_SCALE = 0.01

FORMATS = ("f32", "f16", *held_formats())


@contextmanager
def onnx_product(
    format: str, shape: tuple[int, int], *, tokens: int, copies: int, threads: int
) -> Iterator[OrtProduct]:
    """``copies`` products of one shape and format in ONNX Runtime.

    Args:
        format: the weights' format.
        shape: (rows, columns) of the matrix.
        tokens: rows of activations.
        copies: different weights in memory, gone through one after another.
        threads: CPU threads.
    """
    graph = product_graph(format, shape, tokens, copies)
    with TemporaryDirectory(prefix="edgepress-costs-") as folder:
        model = Path(folder) / "model.onnx"
        model.write_bytes(serialize(graph, "products"))
        _write_data(graph, model.with_name(DATA_FILE))
        with OrtProduct(model, threads=threads) as product:
            yield product


def product_graph(format: str, shape: tuple[int, int], tokens: int, copies: int) -> Graph:
    """The graph: one product per copy."""
    graph = Graph()
    for copy in range(copies):
        plan = TensorPlan(name=f"{copy}.weight", shape=shape, format=format)
        matrix = Matrix(graph, {plan.name: plan}, [plan.name], plan.name)
        graph.inputs.append(Value(name=f"x{copy}", dtype="float32", shape=(1, tokens, shape[1])))
        graph.outputs.append(Value(name=f"y{copy}", dtype="float32", shape=(1, tokens, shape[0])))
        matrix.product(f"x{copy}", f"y{copy}", accuracy_level=INT8_ACTIVATIONS)
    return graph


def _write_data(graph: Graph, path: Path) -> None:
    patterns = {entry.dtype: _pattern(entry.dtype) for entry in graph.initializers}
    with path.open("wb") as stream:
        for entry in graph.initializers:
            stream.write(bytes(entry.offset - stream.tell()))
            _write_values(stream, entry, patterns[entry.dtype])


def _write_values(stream: Any, entry: Initializer, pattern: NDArray[Any]) -> None:
    left = entry.length // pattern.itemsize
    while left:
        part = pattern[:left]
        stream.write(part.tobytes())
        left -= len(part)


def _pattern(dtype: str) -> NDArray[Any]:
    """Random codes; floats small enough for a sum of products to stay finite."""
    rng = np.random.default_rng(0)
    if dtype in ("uint8", "int8"):
        return rng.integers(0, 256, _PATTERN_VALUES, np.uint8).view(dtype)
    return (_SCALE * rng.uniform(0.5, 1.5, _PATTERN_VALUES)).astype(dtype)

"""What ONNX Runtime is timed on is the exporter's own product: as many nodes as copies, with a finite result."""

from __future__ import annotations

import numpy as np
import pytest

from edgepress.artifact.formats import get_format
from edgepress.pipeline.onnx_products import FORMATS, onnx_product, product_graph

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_multiplies_in_the_engine(format: str) -> None:
    with onnx_product(format, (48, 256), tokens=3, copies=2, threads=1) as product:
        product.run()
        found = product.output()
    assert found.shape == (1, 3, 48)
    assert np.isfinite(found).all() and found.std() > 0
    operator = "FusedMatMul" if get_format(format).kind == "float" else "MatMulNBits"
    graph = product_graph(format, (48, 256), 3, 2)
    products = [node for node in graph.nodes if node.op == operator]
    assert len(products) == 2
    assert len({node.inputs[1] for node in products}) == 2

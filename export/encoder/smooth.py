"""Channel factors put into the graph: into a norm where it feeds nothing but linears, else as a product of their own.

Pre-norm models (ViT) take them into the norm's gain and bias for nothing. BERT's post-norms also feed the residual
stream, and the activation function before the second linear has no gain: there one elementwise product is added, which
TensorRT fuses with the rounding that follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.export.encoder.model import OnnxModel, linears


def smooth(model: OnnxModel, factors: Mapping[str, NDArray[np.float32]]) -> dict[str, str]:
    """Divide values by factors and multiply the weights that read them.

    Args:
        model: a float32 graph, changed in place.
        factors: by the name of a value that linears read.

    Returns:
        For each of those names, the name that the linears read now.
    """
    products = {node.output[0] for node in linears(model)}
    nodes, renamed = [], {}
    for node in model.nodes:
        nodes.append(node)
        for name in node.output:
            if name in factors:
                readers = [reader for reader in model.readers(name) if reader.output[0] in products]
                alone = len(readers) == len(model.readers(name)) and name not in model.outputs
                if node.op_type == "LayerNormalization" and alone:
                    _into_norm(model, node, factors[name])
                    renamed[name] = name
                else:
                    renamed[name] = f"{name}.smoothed"
                    nodes.append(_product(model, name, factors[name]))
    for node in nodes:
        if node.output[0] in products and node.input[0] in factors:
            weight = model.values(node.input[1])
            assert weight is not None
            scaled = weight * factors[node.input[0]][:, None]
            node.input[1] = model.add(f"{node.output[0]}.weight.smoothed", scaled)
            node.input[0] = renamed[node.input[0]]
    model.replace_nodes(nodes)
    return renamed


def _into_norm(model: OnnxModel, norm: Any, factors: NDArray[np.float32]) -> None:
    for place in range(1, len(norm.input)):
        values = model.values(norm.input[place])
        assert values is not None
        norm.input[place] = model.add(f"{norm.output[0]}.{('gain', 'bias')[place - 1]}.smoothed", values / factors)


def _product(model: OnnxModel, name: str, factors: NDArray[np.float32]) -> Any:
    label = model.add(f"{name}.smoothing", (1 / factors).astype(np.float16).astype(np.float32))
    return model.node("Mul", [name, label], f"{name}.smoothed")

"""Which layers lose their attention: its influence proposes, the divergence decides.

    AI_i = 1 - E cos(s_i, s_i + a_i)      s_i the residual stream in front of layer i, a_i what its attention adds to it

Among the few layers of least influence, the one whose attention costs the least true divergence goes, and the next is
sought without it. The first layer keeps its own: llama.cpp reads from it how long a head is, and it is the one that
models can least do without.

Source: He et al., "What Matters in Transformers? Not All Attention is Needed", arXiv 2406.15786, who drop by the
influence alone.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.artifact.families import FAMILIES
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.held_out import thin_out
from edgepress.compress.calibrate.skeleton import Skeleton
from edgepress.compress.prune.choose_layers import JUDGING_TOKENS, one_by_one
from edgepress.compress.prune.removed import Removed
from edgepress.compress.search.divergence import Divergence


@torch.inference_mode()
def attention_influence(source: WeightSource, windows: NDArray[np.int32]) -> dict[int, float]:
    """AI of every layer that has attention, by its index.

    Args:
        source: the model.
        windows: int32, (samples, length).
    """
    skeleton, found = Skeleton(source, windows), {}
    hidden, norm = skeleton.embed(), FAMILIES[source.spec.family].part("ffn_norm")  # reads s + a
    for index in range(source.spec.depth):
        layer, behind = skeleton.fill(index, skeleton.read_layer(index)), list[torch.Tensor]()
        handle = layer.get_submodule(norm).register_forward_pre_hook(lambda _, inputs: behind.append(inputs[0]))  # noqa: B023
        cosines = []
        for batch in skeleton.batches:
            before = hidden[batch].clone()
            hidden[batch] = skeleton.run(layer, index, before)
            cosines.append(torch.cosine_similarity(before, behind.pop(), dim=-1))
        handle.remove()
        if source.spec.layers[index].heads:
            found[index] = 1 - float(torch.cat(cosines).mean(dtype=torch.float64))
        skeleton.release(index)
    return found


def choose_attention(source: WeightSource, drop: int, windows: NDArray[np.int32]) -> list[int]:
    """The layers that lose their attention, ascending.

    Args:
        source: the model, with attention in more than ``drop`` layers.
        drop: how many.
        windows: int32, (samples, length); what influence and divergence are measured on.

    Raises:
        InputError: the model overflows.
    """
    if drop == 0:
        return []
    judged = thin_out(windows, max(1, JUDGING_TOKENS // windows.shape[1]))
    influence, divergence = attention_influence(source, judged), Divergence(source, judged)
    del influence[0]

    def cost(gone: tuple[int, ...]) -> float:
        return divergence.of(Removed(attention=gone).change(source.spec))

    return sorted(one_by_one(influence, drop, cost, "the attention of layer"))

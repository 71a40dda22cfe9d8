"""Depth: whole layers are dropped; block influence proposes, the divergence decides.

    BI_i = 1 - E cos(h_i, h_{i+1})        how much layer i turns the residual stream (ShortGPT, arXiv 2403.03853)

Influences are seen one layer at a time, and losses do not add up, so they only say which layers to try: among the few
of least influence, the one whose loss costs the least true divergence goes, and the next is sought without it.
"""

from __future__ import annotations

from math import isfinite
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.artifact.hf_shapes import with_shapes
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.skeleton import Skeleton
from edgepress.compress.prune.removed import Removed
from edgepress.compress.prune.stage import StageWriter, ends_of, layers_of
from edgepress.compress.search.divergence import Divergence
from edgepress.errors import InputError
from edgepress.progress import progress, say

PROPOSED = 4  # layers tried for each that goes
JUDGING_TOKENS = 2048


@torch.inference_mode()
def block_influence(source: WeightSource, windows: NDArray[np.int32]) -> list[float]:
    """1 - the mean cosine between what each layer reads and what it leaves.

    Args:
        source: the model.
        windows: int32, (samples, length).
    """
    skeleton = Skeleton(source, windows)
    hidden, found = skeleton.embed(), []
    for index in range(source.spec.depth):
        layer, total = skeleton.fill(index, skeleton.read_layer(index)), 0.0
        for batch in skeleton.batches:
            before = hidden[batch].clone()
            hidden[batch] = skeleton.run(layer, index, before)
            total += float(torch.cosine_similarity(before, hidden[batch], dim=-1).sum(dtype=torch.float64))
        found.append(1 - total / windows.size)
        skeleton.release(index)
    return found


def choose_layers(source: WeightSource, drop: int, windows: NDArray[np.int32]) -> list[int]:
    """The layers to drop, ascending.

    Args:
        source: the model.
        drop: how many.
        windows: int32, (samples, length); what influence and divergence are measured on.

    Raises:
        InputError: no layer would be left.
    """
    if drop >= source.spec.depth:
        raise InputError(f"prune_layers: drop {drop} of {source.spec.depth} layers; at least one has to stay")
    if drop == 0:
        return []
    judged = windows[: max(1, JUDGING_TOKENS // windows.shape[1])]
    influence, divergence = block_influence(source, judged), Divergence(source, judged)
    gone: list[int] = []
    with progress("prune_layers", drop * PROPOSED) as advance:
        for _ in range(drop):
            left = sorted(set(range(source.spec.depth)) - set(gone), key=lambda index: influence[index])[:PROPOSED]
            costs = {}
            for index in left:
                costs[index] = divergence.of(Removed(layers=(*gone, index)).change(source.spec))
                advance(1)
            best = min(costs, key=lambda index: (not isfinite(costs[index]), costs[index]))
            if not isfinite(costs[best]):
                raise InputError(
                    f"prune_layers: the divergence without layer {best} is not finite: the model overflows"
                )
            gone.append(best)
            say(f"prune_layers: layer {best} goes, divergence {costs[best]:.4f}")
    return sorted(gone)


def drop_layers(source: WeightSource, gone: list[int], directory: Path, *, name: str) -> None:
    """Write the model without some layers as a float32 checkpoint into ``directory``, which exists and is empty.

    Args:
        source: the model.
        gone: the layers without which it is written.
        directory: where the checkpoint goes.
        name: the model's name.
    """
    spec, removed = source.spec, Removed(layers=tuple(gone))
    stays = removed.kept_layers(spec.depth)
    writer = StageWriter(directory, len(stays))
    writer.write_layers(layers_of(source, stays), "prune_layers (write)")
    shapes = [spec.layers[index] for index in stays]
    config = with_shapes(source.config | {"tie_word_embeddings": spec.tied}, shapes, spec.head_dim)
    if any(layer.window for layer in spec.layers):  # otherwise a rule by the layer's place would say
        config["layer_types"] = ["sliding_attention" if layer.window else "full_attention" for layer in shapes]
    elif config.get("layer_types"):
        config["layer_types"] = ["full_attention"] * len(stays)
    writer.finish(ends_of(source), source.tokenizer_dir, removed, config, name)

"""Depth: whole layers are dropped, by which nothing else of the model changes. Which: ``choose_layers``."""

from __future__ import annotations

from pathlib import Path

from edgepress.artifact.hf_shapes import with_shapes
from edgepress.artifact.weights import WeightSource
from edgepress.compress.prune.removed import Removed
from edgepress.compress.prune.stage import StageWriter, ends_of, layers_of


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

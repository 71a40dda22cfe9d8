"""Depth: whole layers are dropped, or their attention, by which nothing else of the model changes.

Which: ``choose_layers`` and ``choose_attention``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from edgepress.artifact.families import FAMILIES, LAYER
from edgepress.artifact.hf_shapes import with_shapes
from edgepress.artifact.weights import WeightSource
from edgepress.compress.prune.removed import Removed
from edgepress.compress.prune.stage import StageWriter, Tensors, ends_of, layers_of


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


def drop_attention(source: WeightSource, gone: list[int], directory: Path, *, name: str) -> None:
    """Write the model with no attention in some layers, nor the norms around it; otherwise as :func:`drop_layers`."""
    spec, removed = source.spec, Removed(attention=tuple(gone))
    shapes = [
        msgspec.structs.replace(layer, heads=0, kv_heads=0) if index in gone else layer
        for index, layer in enumerate(spec.layers)
    ]
    writer = StageWriter(directory, spec.depth)
    writer.write_layers(_without_attention(source, gone), "prune_layers (write)")
    config = with_shapes(source.config | {"tie_word_embeddings": spec.tied}, shapes, spec.head_dim)
    writer.finish(ends_of(source), source.tokenizer_dir, removed, config, name)


def _without_attention(source: WeightSource, gone: list[int]) -> Iterator[Tensors]:
    family = FAMILIES[source.spec.family]
    for index, tensors in enumerate(layers_of(source, range(source.spec.depth))):
        if index in gone:
            lost = family.norms.keys() - family.norms_of(msgspec.structs.replace(source.spec.layers[index], heads=0))
            prefixes = tuple(f"{LAYER.format(i=index)}{part}." for part in ("self_attn", *lost))
            tensors = {key: values for key, values in tensors.items() if not key.startswith(prefixes)}
        yield tensors

"""Depth: whole layers are dropped, or their attention, by which nothing else of the model changes.

Which: ``choose_layers`` and ``choose_attention``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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
    writer.finish(ends_of(source), source.tokenizer_dir, removed, config, name)


def drop_attention(source: WeightSource, gone: list[int], directory: Path, *, name: str) -> None:
    """Write the model with no attention in some layers, nor the norms around it; otherwise as :func:`drop_layers`."""
    spec, removed = source.spec, Removed(attention=tuple(gone))
    writer = StageWriter(directory, spec.depth)
    writer.write_layers(_without_attention(source, gone), "prune_layers (write)")
    shapes = spec.without_attention(gone).layers
    config = with_shapes(source.config | {"tie_word_embeddings": spec.tied}, shapes, spec.head_dim)
    writer.finish(ends_of(source), source.tokenizer_dir, removed, config, name)


def _without_attention(source: WeightSource, gone: list[int]) -> Iterator[Tensors]:
    family, left = FAMILIES[source.spec.family], source.spec.without_attention(gone)
    for index, tensors in enumerate(layers_of(source, range(source.spec.depth))):
        if index in gone:
            lost = family.norms.keys() - family.norms_of(left.layers[index])
            prefixes = tuple(f"{LAYER.format(i=index)}{part}." for part in ("self_attn", *lost))
            tensors = {key: values for key, values in tensors.items() if not key.startswith(prefixes)}
        yield tensors

"""Hidden width: channels of the residual stream go, in the embedding, every norm, and one side of every linear.

Which: those of least Σ over the norms before attention, feed-forward and head of mean |norm(x)| on calibration text
(Minitron, arXiv 2407.14679). How the slices are taken, and what becomes of the norms' gains, is weight selection's
(``distill.weight_selection``); what stays is then solved for the whole model (``narrow``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.checkpoint import CheckpointWriter
from edgepress.artifact.families import EMBEDDING, FAMILIES, FINAL_NORM, HEAD, LAYER, layer_name
from edgepress.artifact.hf_config import model_spec, with_shapes
from edgepress.artifact.weights import WeightSource
from edgepress.compress.distill.channel_statistics import ChannelStatistics, channel_statistics
from edgepress.compress.distill.smaller import Size
from edgepress.compress.distill.weight_selection import SelectedWeights, share_of_squares
from edgepress.compress.prune.config import PruneHidden
from edgepress.compress.prune.narrow import NarrowWalk, Tensors
from edgepress.compress.prune.removed import Removed, write_removed
from edgepress.compress.quantize.layers import copy_tokenizer
from edgepress.errors import InputError
from edgepress.progress import progress


def kept_channels(hidden: int, step: PruneHidden) -> int:
    """How many of ``hidden`` channels stay.

    Raises:
        InputError: none would, or all of them though fewer were asked for.
    """
    if step.keep == 1:
        return hidden
    count = round(hidden * step.keep / step.multiple_of) * step.multiple_of
    if 0 < count < hidden:
        return count
    fewer = (hidden - 1) // step.multiple_of * step.multiple_of
    ways = f"keep from {step.multiple_of / hidden:.3g} to {fewer / hidden:.3g}, or " if fewer else ""
    raise InputError(
        f"prune_hidden: keep {step.keep:g} of {hidden} channels leaves {'all' if count else 'none'} of them, as so "
        f"many stay as a multiple of {step.multiple_of}; take {ways}a smaller multiple_of"
    )


def narrow_weights(source: WeightSource, count: int, statistics: ChannelStatistics) -> SelectedWeights:
    """The model's slices on its ``count`` most important channels, not solved."""
    spec = source.spec
    config = source.config | {"tie_word_embeddings": spec.tied}
    config = with_shapes(config, spec.layers, spec.head_dim, count)
    size = Size(config, model_spec(config, tied=spec.tied), tuple(range(spec.depth)))
    return SelectedWeights(source, size, statistics)


def prune_hidden(
    source: WeightSource, step: PruneHidden, windows: NDArray[np.int32], directory: Path, *, name: str
) -> None:
    """Write the narrower model as a float32 checkpoint into ``directory``, which exists and is empty.

    Args:
        source: the model.
        step: how much of its width stays.
        windows: calibration tokens, int32, (samples, length).
        directory: where the checkpoint goes.
        name: the model's name.
    """
    statistics = channel_statistics(source, windows)
    narrow = narrow_weights(source, kept_channels(source.spec.hidden, step), statistics)
    channels = narrow.selection.hidden
    walk = NarrowWalk(source, narrow, channels, windows, bfloat16=True) if step.repair else None
    writer = CheckpointWriter(directory, shards=source.spec.depth + 1)
    layers = _as_they_are(narrow) if walk is None else walk.layers()
    with progress("prune_hidden", source.spec.depth) as advance:
        for tensors in layers:
            writer.write_shard(tensors, dict.fromkeys(tensors, "f32"))
            advance(1)
    rest = {key: narrow.read(key) for key in (EMBEDDING, FINAL_NORM, HEAD) if key in narrow.names}
    if walk is not None and HEAD in rest:
        rest[HEAD] = walk.head()
    writer.write_shard(rest, dict.fromkeys(rest, "f32"))
    copy_tokenizer(source.tokenizer_dir, directory)
    write_removed(Removed(channels=tuple(channels.tolist()), rescaled=_rescaled(source, narrow, statistics)), directory)
    writer.finish(narrow.config, name)


def _as_they_are(narrow: SelectedWeights) -> Iterator[Tensors]:
    for index in range(narrow.spec.depth):
        yield {key: narrow.read(key) for key in narrow.names if key.startswith(LAYER.format(i=index))}


def _rescaled(source: WeightSource, narrow: SelectedWeights, statistics: ChannelStatistics) -> dict[str, float]:
    """What the gains of the stream's norms are multiplied by where the other channels are zero, but there: the root of
    the share of their inputs' squares that the chosen channels have.
    """
    norms = [part for part in FAMILIES[source.spec.family].norms if not part.startswith("self_attn.")]
    names = [layer_name(index, part) for index in range(source.spec.depth) for part in norms]
    chosen = narrow.selection.hidden
    squares = {key: statistics.norm_inputs[key] for key in (*names, FINAL_NORM)}
    return {key: float(np.sqrt(share_of_squares(each, chosen))) for key, each in squares.items()}

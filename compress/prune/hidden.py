"""Hidden width: channels of the residual stream go, in the embedding, every norm, and one side of every linear.

Which: those of least Σ over the norms before attention, feed-forward and head of mean |norm(x)| on calibration text
(Minitron, arXiv 2407.14679). How the slices are taken, and what becomes of the norms' gains, is weight selection's
(``distill.weight_selection``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.families import FAMILIES, FINAL_NORM, layer_name
from edgepress.artifact.hf_config import model_spec
from edgepress.artifact.hf_shapes import with_shapes
from edgepress.artifact.weights import WeightSource
from edgepress.compress.distill.channel_statistics import ChannelStatistics, channel_statistics
from edgepress.compress.distill.smaller import Size
from edgepress.compress.distill.weight_selection import SelectedWeights, share_of_squares
from edgepress.compress.prune.config import PruneHidden
from edgepress.compress.prune.removed import Removed
from edgepress.compress.prune.stage import StageWriter, ends_of, layers_of
from edgepress.errors import InputError


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
    writer = StageWriter(directory, source.spec.depth)
    writer.write_layers(layers_of(narrow, range(narrow.spec.depth)), "prune_hidden")
    channels = tuple(narrow.selection.hidden.tolist())
    removed = Removed(channels=channels, rescaled=_rescaled(source, narrow, statistics))
    writer.finish(ends_of(narrow), source.tokenizer_dir, removed, narrow.config, name)


def _rescaled(source: WeightSource, narrow: SelectedWeights, statistics: ChannelStatistics) -> dict[str, float]:
    """What the gains of the stream's norms are multiplied by where the other channels are zero, but there: the root of
    the share of their inputs' squares that the chosen channels have.
    """
    norms = [part for part in FAMILIES[source.spec.family].norms if not part.startswith("self_attn.")]
    names = [layer_name(index, part) for index in range(source.spec.depth) for part in norms]
    chosen = narrow.selection.hidden
    squares = {key: statistics.norm_inputs[key] for key in (*names, FINAL_NORM)}
    return {key: float(np.sqrt(share_of_squares(each, chosen))) for key, each in squares.items()}

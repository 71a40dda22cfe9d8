"""What a pruning step leaves: a float32 checkpoint, written layer by layer, and beside it what was removed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from edgepress.artifact.checkpoint import CheckpointWriter
from edgepress.artifact.families import EMBEDDING, FINAL_NORM, HEAD, LAYER
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.skeleton import Floats
from edgepress.compress.prune.removed import Removed, write_removed
from edgepress.compress.quantize.layers import copy_tokenizer
from edgepress.progress import progress

Tensors = dict[str, Floats]


class StageWriter:
    """:meth:`write_layers`, then :meth:`finish`."""

    def __init__(self, directory: Path, layers: int) -> None:
        """Write ``layers`` layers into ``directory``, which exists; other files in it stay."""
        self._directory, self._layers = directory, layers
        self._writer = CheckpointWriter(directory, shards=layers + 1)

    def write_layers(self, layers: Iterable[Tensors], what: str) -> None:
        """Write each as it comes, with a progress bar that says ``what``."""
        with progress(what, self._layers) as advance:
            for tensors in layers:
                self._writer.write_shard(tensors, dict.fromkeys(tensors, "f32"))
                advance(1)

    def finish(self, ends: Tensors, tokenizer: Path, removed: Removed, config: dict[str, Any], name: str) -> None:
        """Write the rest.

        Args:
            ends: embedding, last norm, and head if it has one of its own.
            tokenizer: directory of its files.
            removed: what the step took away.
            config: the model's config.json.
            name: the model's name.
        """
        self._writer.write_shard(ends, dict.fromkeys(ends, "f32"))
        copy_tokenizer(tokenizer, self._directory)
        write_removed(removed, self._directory)
        self._writer.finish(config, name)


def layers_of(source: WeightSource, indices: Iterable[int]) -> Iterator[Tensors]:
    """Some layers' tensors as they are, with the names of layers 0, 1, ..."""
    for place, index in enumerate(indices):
        old, new = LAYER.format(i=index), LAYER.format(i=place)
        own = [name for name in source.names if name.startswith(old)]
        yield {new + name.removeprefix(old): source.read(name) for name in own}


def ends_of(source: WeightSource) -> Tensors:
    """Embedding, last norm, and head if it has one of its own."""
    return {key: source.read(key) for key in (EMBEDDING, FINAL_NORM, HEAD) if key in source.names}

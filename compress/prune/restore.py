"""After neurons or heads are gone and each reader is solved for its own output: all layers once more, for the whole
model (``narrow``), with all channels.

A pruned reader makes up for what its own layer lost. What is still missing then adds up along the residual stream, and
whatever writes into it can make up for a part of that, attentions whose heads were never touched included; queries,
keys and values of layers that have all their heads are solved for those of the whole model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.checkpoint import CheckpointWriter
from edgepress.artifact.families import EMBEDDING, FINAL_NORM, HEAD
from edgepress.artifact.weights import WeightSource
from edgepress.compress.prune.narrow import NarrowWalk
from edgepress.compress.prune.removed import read_removed, write_removed
from edgepress.compress.quantize.layers import copy_tokenizer
from edgepress.compress.student.checkpoint import CheckpointStudent
from edgepress.progress import progress


def restore(source: WeightSource, pruned_at: Path, windows: NDArray[np.int32], directory: Path, *, name: str) -> None:
    """Write the pruned model, solved once more, as a float32 checkpoint into ``directory``.

    Args:
        source: the model before the step.
        pruned_at: directory of the checkpoint that the step left.
        windows: calibration tokens, int32, (samples, length).
        directory: where the checkpoint goes; other files in it stay.
        name: the model's name.
    """
    pruned = CheckpointStudent(pruned_at)
    writer = CheckpointWriter(directory, shards=source.spec.depth + 1)
    walk = NarrowWalk(source, pruned, np.arange(source.spec.hidden), windows, bfloat16=True)
    with progress("prune (restore)", source.spec.depth) as advance:
        for tensors in walk.layers():
            writer.write_shard(tensors, dict.fromkeys(tensors, "f32"))
            advance(1)
    rest = {key: pruned.read(key) for key in (EMBEDDING, FINAL_NORM, HEAD) if key in pruned.names}
    writer.write_shard(rest, dict.fromkeys(rest, "f32"))
    copy_tokenizer(source.tokenizer_dir, directory)
    removed = read_removed(pruned_at)
    if removed is not None:
        write_removed(removed, directory)
    writer.finish(pruned.config, name)

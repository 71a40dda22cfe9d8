"""From a solved checkpoint to one that is nearer to the student, on the same grids and in the same bytes.

The loss is the KL divergence of the compressed model's next-token distribution from the original's, at temperature 1,
on text without labels. Source: QAD (arXiv 2601.20088); training scales end to end after a layer-wise solve is
EfficientQAT's second phase (arXiv 2407.11062). Where we depart: it starts from gptaq's codes, learning rates are in
units of the grid, and the result is never worse than the start on held-out text, which neither solve nor training saw.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.checkpoint import Checkpoint, CheckpointWriter
from edgepress.artifact.families import EMBEDDING, HEAD, LAYER
from edgepress.artifact.weights import WeightSource
from edgepress.compress.quantize.layers import ERRORS_FILE, copy_tokenizer
from edgepress.compress.quantize.qad.model import TrainedModel
from edgepress.compress.quantize.qad.train import State, Stored, train
from edgepress.compress.quantize.solved import TensorError, relative_error
from edgepress.compress.search.divergence import Divergence, final_states

RECORD_FILE = "distillation.json"
_RATES = (3e-3, 1e-3)


class Distillation(msgspec.Struct, frozen=True, kw_only=True):
    """What training through the grids brought.

    tokens         that were trained on
    held_out       divergence on held-out text in nats per token, by tokens seen; the first is the start's
    """

    tokens: int
    held_out: tuple[tuple[int, float], ...]

    @property
    def start(self) -> float:
        """The divergence of the solved model."""
        return self.held_out[0][1]

    @property
    def reached(self) -> float:
        """The divergence of the state that was kept."""
        return min(found for _, found in self.held_out)


def distill_through_grids(
    original: WeightSource,
    solved: Checkpoint,
    windows: NDArray[np.int32],
    held_out: NDArray[np.int32],
    directory: Path,
    *,
    tokens: int,
    seed: int,
    rates: tuple[float, float] = _RATES,
) -> Distillation:
    """Write the trained checkpoint into ``directory``, which exists and is empty.

    Args:
        original: the model to come close to.
        solved: where to start.
        windows: text to train on, int32, (samples, length).
        held_out: text to choose the best state by, int32, (samples, length).
        directory: where the result goes.
        tokens: to train on, in whole batches: one at least, and no part of another.
        seed: of the order of the text.
        rates: learning rates of the codes, in gaps between levels, and of the scales, relative.
    """
    states = final_states(original, windows)
    divergence = Divergence(original, held_out)
    model = TrainedModel(original, solved)
    best, curve = train(
        model,
        windows,
        states,
        tokens=tokens,
        rates=rates,
        held_out=lambda: divergence.of(lambda name, _values: model.values(name)),
        seed=seed,
    )
    _write(original, solved, best, directory)
    record = Distillation(tokens=curve[-1][0], held_out=tuple(curve))
    (directory / RECORD_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
    return record


def _write(original: WeightSource, solved: Checkpoint, state: State, directory: Path) -> None:
    depth = solved.spec.depth
    writer, errors = CheckpointWriter(directory, shards=depth + 1), []
    layers = [LAYER.format(i=index) for index in range(depth)]
    rest = [name for name in solved.names if not name.startswith(tuple(layers))]
    for names in ([name for name in solved.names if name.startswith(prefix)] for prefix in layers):
        errors += _write_shard(writer, original, solved, state, names)
    errors += _write_shard(writer, original, solved, state, rest)
    (directory / ERRORS_FILE).write_text(json.dumps(msgspec.to_builtins(errors), indent=2) + "\n", encoding="utf-8")
    copy_tokenizer(solved.tokenizer_dir, directory)
    writer.finish(solved.config, solved.name)


def _write_shard(
    writer: CheckpointWriter, original: WeightSource, solved: Checkpoint, state: State, names: list[str]
) -> list[TensorError]:
    """One shard, and what its matrices lost against the original weights, all inputs counted alike."""
    stored: dict[str, Stored] = {name: state[name] if name in state else _kept(solved, name) for name in names}
    writer.write_shard(stored, {name: solved.format(name) for name in names})
    return [
        TensorError(
            name=name,
            format=tensor.format,
            relative_error=relative_error(original.read(name), tensor.dequantize(), None),
            weighted=False,
        )
        for name, tensor in stored.items()
        if not isinstance(tensor, np.ndarray)
    ]


def _kept(solved: Checkpoint, name: str) -> Stored:
    tensor = solved.quantized(name)
    assert tensor is None or name in (EMBEDDING, HEAD)
    return solved.read(name) if tensor is None else tensor

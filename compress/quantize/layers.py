"""The quantize step: walk the model layer by layer, quantize each matrix, write a checkpoint shard per layer.

With ``scale_search`` each matrix is weighted by the mean square of its inputs on the calibration windows, taken from
the unquantized model. A tied embedding is weighted as the head, which is the use that the error of a logit comes from;
an untied one only looks rows up, and all features of a row count alike. ``gptaq`` has an order of its own: see
``sequence``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.checkpoint import CheckpointWriter, Stored
from edgepress.artifact.families import EMBEDDING, HEAD, LAYER
from edgepress.artifact.quantized import QuantizedTensor
from edgepress.artifact.weights import WeightSource
from edgepress.compress.quantize.assign import Assignment
from edgepress.compress.quantize.config import QuantizeStep, Solver
from edgepress.compress.quantize.solve import quantize_matrix
from edgepress.compress.quantize.solved import Solved, TensorError, solve_tensor
from edgepress.progress import progress

Floats = NDArray[np.float32]
Tensors = dict[str, Floats]
ERRORS_FILE = "quantization.json"
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)


def quantize_model(
    source: WeightSource,
    step: QuantizeStep,
    assignment: Assignment,
    windows: NDArray[np.int32] | None,
    directory: Path,
    *,
    name: str,
) -> None:
    """Quantize ``source`` into a checkpoint in ``directory`` (which exists and is empty).

    Args:
        source: the model.
        step: the recipe's step.
        assignment: the format of every tensor.
        windows: calibration tokens, int32, (samples, length); None for solvers that need none.
        directory: where the checkpoint goes.
        name: the model's name, which exported files carry.
    """
    formats = assignment.formats
    count, shards = _solve(source, step, windows, formats)
    writer = CheckpointWriter(directory, shards=count)
    errors: list[TensorError] = []
    with progress(f"quantize ({step.solver})", sum(tensor.values for tensor in assignment.tensors)) as advance:
        for shard in shards:
            stored: dict[str, Stored] = {}
            for tensor_name, solved in shard:
                stored[tensor_name] = solved.stored
                errors += [solved.error] if solved.error else []
                advance(solved.values.size)
            writer.write_shard(stored, formats)
    copy_tokenizer(source.tokenizer_dir, directory)
    (directory / ERRORS_FILE).write_text(json.dumps(msgspec.to_builtins(errors), indent=2) + "\n", encoding="utf-8")
    writer.finish(source.config | {"tie_word_embeddings": source.spec.tied}, name)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files and the generation settings."""
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _solve(
    source: WeightSource, step: QuantizeStep, windows: NDArray[np.int32] | None, formats: dict[str, str]
) -> tuple[int, Iterator[Iterable[tuple[str, Solved]]]]:
    """How many shards there will be, and the shards."""
    if step.solver == "gptaq" and windows is not None:
        from edgepress.compress.quantize.sequence import quantize_in_sequence, shard_count

        return shard_count(source), quantize_in_sequence(source, windows, formats)
    shards = (_shard(tensors, moments, step.solver, formats) for tensors, moments in _batches(source, windows))
    return source.spec.depth + 1, shards


def _shard(tensors: Tensors, moments: Tensors, solver: Solver, formats: dict[str, str]) -> Iterable[tuple[str, Solved]]:
    for name in list(tensors):
        importance = moments.get(name)

        def quantize(weight: Floats, format: str, importance: Floats | None = importance) -> QuantizedTensor:
            return quantize_matrix(weight, format, solver, importance)

        yield name, solve_tensor(name, tensors.pop(name), formats[name], quantize, importance)


def _batches(source: WeightSource, windows: NDArray[np.int32] | None) -> Iterator[tuple[Tensors, Tensors]]:
    """Tensors, and the mean squares of their inputs where windows are given: one pair per layer, then the rest."""
    rest = [name for name in source.names if not name.startswith("model.layers.")]
    if windows is None:
        for index in range(source.spec.depth):
            prefix = LAYER.format(i=index)
            yield {name: source.read(name) for name in source.names if name.startswith(prefix)}, {}
        yield {name: source.read(name) for name in rest}, {}
        return
    from edgepress.compress.calibrate.walk import LayerWalk

    walk = LayerWalk(source, windows)
    for visit in walk.layers():
        yield visit.tensors, visit.mean_square
    yield {name: source.read(name) for name in rest}, {HEAD if HEAD in rest else EMBEDDING: walk.head_mean_square()}

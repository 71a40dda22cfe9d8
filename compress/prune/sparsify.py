"""The sparsify step over a whole model: every linear of the layers, each solved for the inputs that the sparse ones
before it leave. The shapes stay; so do the embedding, the head and the norms.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.artifact.checkpoint import CheckpointWriter
from edgepress.artifact.families import EMBEDDING, FINAL_NORM, HEAD, layer_name, linear_groups_of, linears_of
from edgepress.artifact.spec import ModelSpec
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.moments import InputStatistics
from edgepress.compress.calibrate.pair_walk import PairVisit, PairWalk
from edgepress.compress.prune.config import Sparsify
from edgepress.compress.prune.parts import Tensors
from edgepress.compress.prune.sparse_matrix import Pattern, magnitude, sparsegpt, wanda
from edgepress.compress.quantize.gptaq.sweep import upper_factor
from edgepress.compress.quantize.gptaq.target import asymmetric_target, damped
from edgepress.compress.quantize.layers import copy_tokenizer
from edgepress.errors import InputError
from edgepress.progress import progress

Floats = NDArray[np.float32]


def pattern_of(step: Sparsify) -> Pattern:
    """Where a step puts zeros."""
    if step.pattern == "anywhere":
        return Pattern(share=step.share)
    zeros, of = (int(part) for part in step.pattern.split(":"))
    return Pattern(zeros=of - zeros, of=of)


def check_widths(spec: ModelSpec, pattern: Pattern) -> None:
    """Refuse inputs that do not divide into the pattern's groups.

    Raises:
        InputError: which width.
    """
    widths = {spec.hidden} | {width for layer in spec.layers for width in (layer.ffn, layer.heads * spec.head_dim)}
    if pattern.of and (odd := sorted(width for width in widths if width % pattern.of)):
        raise InputError(f"sparsify: {odd[0]} inputs do not divide into groups of {pattern.of}; use pattern: anywhere")


def zero_share(source: WeightSource) -> float:
    """The share of the weights of the layers' matrices that is zero."""
    zeros = count = 0
    for index, layer in enumerate(source.spec.layers):
        for part in linears_of(layer).values():
            values = source.read(layer_name(index, part))
            zeros, count = zeros + int((values == 0).sum()), count + values.size
    return zeros / count


def write_sparse(
    source: WeightSource, step: Sparsify, windows: NDArray[np.int32], directory: Path, *, name: str
) -> None:
    """Write the sparse model as a float32 checkpoint into ``directory``, which exists and is empty.

    Args:
        source: the model; its linears' inputs are multiples of the pattern.
        step: what is zeroed and how.
        windows: calibration tokens, int32, (samples, length).
        directory: where the checkpoint goes.
        name: the model's name.
    """
    spec = source.spec
    writer = CheckpointWriter(directory, shards=spec.depth + 1)
    with progress(f"sparsify ({step.method})", spec.depth) as advance:
        for tensors in _layers(source, step, windows):
            writer.write_shard(tensors, dict.fromkeys(tensors, "f32"))
            advance(1)
    rest = {key: source.read(key) for key in (EMBEDDING, FINAL_NORM, HEAD) if key in source.names}
    writer.write_shard(rest, dict.fromkeys(rest, "f32"))
    copy_tokenizer(source.tokenizer_dir, directory)
    writer.finish(source.config | {"tie_word_embeddings": spec.tied}, name)


def _layers(source: WeightSource, step: Sparsify, windows: NDArray[np.int32]) -> Iterator[Tensors]:
    for visit in PairWalk(source, windows, bfloat16=True).layers():
        yield _sparse_layer(visit, step)


def _sparse_layer(visit: PairVisit, step: Sparsify) -> Tensors:
    pattern, tensors = pattern_of(step), dict(visit.tensors)
    for group in linear_groups_of(visit.shape):
        names = [layer_name(visit.index, part) for part in group]
        solve = _Solver(visit.statistics(names[0]), step, pattern)
        for name in names:
            tensors[name] = solve(tensors[name])
            visit.replace(name, tensors[name])
    return tensors


class _Solver:
    """Zeroes matrices that read the same inputs."""

    def __init__(self, statistics: InputStatistics, step: Sparsify, pattern: Pattern) -> None:
        self._statistics, self._method, self._pattern = statistics, step.method, pattern
        self._hessian = damped(statistics.hessian)
        self._upper = upper_factor(self._hessian) if step.method == "sparsegpt" else None

    def __call__(self, weight: Floats) -> Floats:
        values = torch.from_numpy(weight)
        if self._upper is not None:
            target = asymmetric_target(values, self._statistics, self._hessian)
            found = sparsegpt(target, self._upper, self._pattern)
        elif self._method == "wanda":
            found = wanda(values, self._statistics.hessian.diagonal(), self._pattern)
        else:
            found = magnitude(values, self._pattern)
        result: Floats = found.numpy()
        return result

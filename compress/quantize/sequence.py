"""The gptaq solver over a whole model: every tensor is solved for the inputs that the tensors before it leave it.

Order: the embedding; layer by layer, within a layer by the groups of linears that read the same input; the head. What
has been solved stands in the compressed model from then on, so each solve makes up for what the ones before it lost.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.families import EMBEDDING, HEAD, LAYER, layer_name, linear_groups_of
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.moments import InputStatistics
from edgepress.compress.calibrate.pair_walk import PairVisit, PairWalk
from edgepress.compress.quantize.gptaq.embedding import embedding_statistics
from edgepress.compress.quantize.gptaq.solve import InputSolver
from edgepress.compress.quantize.solved import Solved, solve_plain, solve_tensor

Shard = Iterator[tuple[str, Solved]]
Formats = dict[str, str]


def shard_count(source: WeightSource) -> int:
    """How many shards :func:`quantize_in_sequence` yields."""
    return source.spec.depth + 2


def quantize_in_sequence(source: WeightSource, windows: NDArray[np.int32], formats: Formats) -> Iterator[Shard]:
    """Solve a model: the embedding, a shard per layer, what is left. A shard has to be used up before the next.

    Args:
        source: the model.
        windows: calibration tokens, int32, (samples, length).
        formats: format of every tensor.
    """
    statistics = embedding_statistics(source, windows)
    embedding = _solve(EMBEDDING, source.read(EMBEDDING), formats, InputSolver(statistics), statistics)
    walk = PairWalk(source, windows, embedding.values, bfloat16=True)
    yield iter([(EMBEDDING, embedding)])
    del embedding
    for visit in walk.layers():
        yield _layer(visit, formats)
    yield _rest(source, walk, formats)


def _layer(visit: PairVisit, formats: Formats) -> Shard:
    for group in linear_groups_of(visit.shape):
        names = [layer_name(visit.index, part) for part in group]
        statistics = visit.statistics(names[0])
        solver = InputSolver(statistics)
        for name in names:
            solved = _solve(name, visit.tensors.pop(name), formats, solver, statistics)
            visit.replace(name, solved.values)
            yield name, solved
    for name, values in visit.tensors.items():
        yield name, solve_plain(name, values)


def _rest(source: WeightSource, walk: PairWalk, formats: Formats) -> Shard:
    layers = LAYER.split("{", maxsplit=1)[0]
    for name in source.names:
        if name == HEAD:
            statistics = walk.head_statistics()
            yield name, _solve(name, source.read(name), formats, InputSolver(statistics), statistics)
        elif name != EMBEDDING and not name.startswith(layers):
            yield name, solve_plain(name, source.read(name))


def _solve(
    name: str, weight: NDArray[np.float32], formats: Formats, solver: InputSolver, statistics: InputStatistics
) -> Solved:
    return solve_tensor(name, weight, formats[name], solver.quantize, statistics.hessian.float().numpy())

"""Which layers to drop: influences propose, the divergence decides, of what is left *after* its repair if it gets one.

    BI_i,n = 1 - E cos(h_i, h_{i+n})      how much n layers from i on turn the residual stream (ShortGPT, arXiv
                                          2403.03853, for n = 1; Gromov et al., arXiv 2403.17887, the angle for all n)

Two kinds of proposals. One by one: among the few layers of least influence, the one whose loss costs the least true
divergence goes, and the next is sought without it, since losses do not add up. Neighbours: the few runs of as many
layers as shall go that have the least influence together. Left alone, the former lose less, as a rule; but one gap
leaves one place where the stream has to be made up for, and the linear in front of it does that well (``repair``). So
all proposals are repaired on a part of the text, and judged by another one, both from all over it.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.held_out import hold_out, thin_out
from edgepress.compress.calibrate.skeleton import Skeleton
from edgepress.compress.prune.depth import drop_layers
from edgepress.compress.prune.removed import Removed
from edgepress.compress.prune.repair import repair
from edgepress.compress.search.divergence import Divergence
from edgepress.compress.student.checkpoint import CheckpointStudent
from edgepress.errors import InputError
from edgepress.progress import progress, say

PROPOSED = 4  # layers tried for each that goes
RUNS = 3  # of neighbours that are tried
JUDGING_TOKENS = 2048
REPAIRING_TOKENS = 6144
Layers = tuple[int, ...]


@torch.inference_mode()
def block_influence(source: WeightSource, windows: NDArray[np.int32], length: int = 1) -> list[float]:
    """1 - the mean cosine between what ``length`` neighbouring layers read and what they leave, by the first of them.

    Args:
        source: the model.
        windows: int32, (samples, length).
        length: of the runs of layers.
    """
    skeleton = Skeleton(source, windows)
    hidden, found = skeleton.embed(), []
    streams = deque([hidden.clone()], maxlen=length)  # in front of the last layers
    for index in range(source.spec.depth):
        layer = skeleton.fill(index, skeleton.read_layer(index))
        for batch in skeleton.batches:
            hidden[batch] = skeleton.run(layer, index, hidden[batch])
        if len(streams) == length:
            cosine = torch.cosine_similarity(streams[0], hidden, dim=-1)
            found.append(1 - float(cosine.mean(dtype=torch.float64)))
        streams.append(hidden.clone())
        skeleton.release(index)
    return found


def choose_layers(
    source: WeightSource, drop: int, windows: NDArray[np.int32], *, tried_in: Path | None = None
) -> list[int]:
    """The layers to drop, ascending.

    Args:
        source: the model.
        drop: how many.
        windows: int32, (samples, length); what influence and divergence are measured on, and proposals repaired.
        tried_in: a directory to be made, where what is left of each proposal is repaired before it is judged; None
            judges it as it is.

    Raises:
        InputError: no layer would be left, or the model overflows.
    """
    if drop >= source.spec.depth:
        raise InputError(f"prune_layers: drop {drop} of {source.spec.depth} layers; at least one has to stay")
    if drop == 0:
        return []
    judged, fitted = judges_and_fit(windows)
    if tried_in is None:
        judged = thin_out(windows, _count(JUDGING_TOKENS, windows))
    divergence = Divergence(source, judged)
    influence = dict(enumerate(block_influence(source, judged)))

    def cost(gone: Layers) -> float:
        return divergence.of(Removed(layers=gone).change(source.spec))

    chosen = one_by_one(influence, drop, cost, "layer")
    if tried_in is None:
        return sorted(chosen)
    runs = block_influence(source, judged, drop)
    starts = sorted(range(len(runs)), key=lambda start: runs[start])[: PROPOSED if drop == 1 else RUNS]
    proposals = dict.fromkeys([tuple(sorted(chosen)), *(tuple(range(start, start + drop)) for start in starts)])
    return list(_best_repaired(source, proposals, fitted, divergence, tried_in))


def judges_and_fit(windows: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Windows to judge by, a quarter and no more than are needed, and others to repair on; a single one is both."""
    judged, rest = hold_out(windows)
    return thin_out(judged, _count(JUDGING_TOKENS, windows)), thin_out(rest, _count(REPAIRING_TOKENS, windows))


def _count(tokens: int, windows: NDArray[np.int32]) -> int:
    return max(1, tokens // int(windows.shape[1]))


def one_by_one(influence: Mapping[int, float], drop: int, cost: Callable[[Layers], float], what: str) -> Layers:
    """Of the few candidates of least influence, the one of least cost goes; the next is sought without it.

    Args:
        influence: of each candidate.
        drop: how many go.
        cost: divergence without some.
        what: goes, in words.

    Raises:
        InputError: no candidate's divergence is finite.
    """
    gone = list[int]()
    with progress("prune_layers", drop * PROPOSED) as advance:
        for _ in range(drop):
            left = sorted(influence.keys() - gone, key=lambda index: influence[index])[:PROPOSED]
            costs = {}
            for index in left:
                costs[index] = cost((*gone, index))
                advance(1)
            best = min(costs, key=lambda index: (not isfinite(costs[index]), costs[index]))
            if not isfinite(costs[best]):
                raise InputError(
                    f"prune_layers: the divergence without {what} {best} is not finite: the model overflows"
                )
            gone.append(best)
            say(f"prune_layers: one by one, {what} {best}: divergence {costs[best]:.4f}")
    return tuple(gone)


def _best_repaired(
    source: WeightSource,
    proposals: Iterable[Layers],
    windows: NDArray[np.int32],
    divergence: Divergence,
    directory: Path,
) -> Layers:
    costs: dict[Layers, float] = {}
    for gone in proposals:
        for name in ("plain", "repaired"):
            (directory / name).mkdir(parents=True)
        drop_layers(source, list(gone), directory / "plain", name="")
        repair(source, directory / "plain", windows, directory / "repaired", name="")
        costs[gone] = divergence.of_model(CheckpointStudent(directory / "repaired"))
        shutil.rmtree(directory)
        say(f"prune_layers: without {', '.join(map(str, gone))}, repaired on a part of the text: {costs[gone]:.4f}")
    return min(costs, key=lambda gone: (not isfinite(costs[gone]), costs[gone]))

"""What the inputs of the layers' linears look like on the calibration windows: maxima, histograms, second moments.

Linears that share an input (q, k, v; gate, up) are seen through the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.hooks import RemovableHandle

from edgepress.artifact.families import LINEARS, READERS, layer_name, readers_in
from edgepress.artifact.spec import ModelSpec
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.moments import InputStatistics, Moments
from edgepress.compress.calibrate.skeleton import Skeleton
from edgepress.progress import progress

Floats = NDArray[np.float32]
Observe = Callable[[str, torch.Tensor], None]

BINS = 1 << 15


def input_maxima(source: WeightSource, windows: NDArray[np.int32]) -> dict[str, Floats]:
    """Largest magnitude of each input feature, (columns,), by the name of every layer linear's weight."""
    found: dict[str, torch.Tensor] = {}

    def observe(name: str, inputs: torch.Tensor) -> None:
        largest = inputs.abs().amax(dim=0)
        found[name] = torch.maximum(found[name], largest) if name in found else largest

    _watch(source, windows, observe, "input maxima")
    return {
        reader: maxima.numpy().copy() for name, maxima in found.items() for reader in _readers(name, source.spec.depth)
    }


def input_histograms(
    source: WeightSource, windows: NDArray[np.int32], ends: Mapping[str, float], weights: Mapping[str, Floats]
) -> dict[str, NDArray[np.float64]]:
    """Weighted counts of the magnitudes of each input.

    Args:
        source: the model.
        windows: calibration tokens, int32, (samples, length).
        ends: the largest magnitude of each input, by a linear's weight.
        weights: what a value of each feature counts, (columns,).

    Returns:
        float64, (BINS,): equal bins from 0 to the input's end.
    """
    found = {name: np.zeros(BINS) for name in _first_readers(source.spec)}

    def observe(name: str, inputs: torch.Tensor) -> None:
        if not ends[name] > 0:
            return
        bins = (inputs.abs() * (BINS / ends[name])).to(torch.int32).clamp_(max=BINS - 1)
        counted = torch.from_numpy(weights[name]).expand(inputs.shape)
        found[name] += torch.bincount(bins.flatten(), counted.flatten(), BINS).numpy()

    _watch(source, windows, observe, "input histograms")
    return {reader: counts for name, counts in found.items() for reader in _readers(name, source.spec.depth)}


def layer_moments(
    source: WeightSource, windows: NDArray[np.int32], roles: Collection[str]
) -> Iterator[tuple[int, dict[str, InputStatistics]]]:
    """Second moments of the inputs that ``roles`` make, by role, for one layer after the other.

    Args:
        source: the model.
        windows: calibration tokens, int32, (samples, length).
        roles: of ``READERS``.
    """
    sums: dict[str, Moments] = {}
    makers = {layer_name(i, LINEARS[READERS[role][0]]): role for role in roles for i in range(source.spec.depth)}

    def observe(name: str, inputs: torch.Tensor) -> None:
        if name in makers:
            sums.setdefault(makers[name], Moments()).add(inputs, None)

    with progress("input moments", source.spec.depth) as advance:
        for index in _walk(source, windows, observe):
            found = {role: moments.finish() for role, moments in sums.items()}
            sums.clear()
            yield index, found
            advance(1)


def _watch(source: WeightSource, windows: NDArray[np.int32], observe: Observe, what: str) -> None:
    """Run the model over the windows and show each input, (tokens, columns), to ``observe``."""
    with progress(what, source.spec.depth) as advance:
        for _ in _walk(source, windows, observe):
            advance(1)


@torch.inference_mode()
def _walk(source: WeightSource, windows: NDArray[np.int32], observe: Observe) -> Iterator[int]:
    """The layers' indices, each when ``observe`` has seen all its inputs, (tokens, columns)."""
    skeleton = Skeleton(source, windows)
    hidden = skeleton.embed()
    for index in range(source.spec.depth):
        layer = skeleton.fill(index, skeleton.read_layer(index))
        own = readers_in(source.spec.layers[index])
        handles = [_listen(layer, index, readers[0], observe) for readers in own.values()]
        for batch in skeleton.batches:
            hidden[batch] = skeleton.run(layer, index, hidden[batch])
        for handle in handles:
            handle.remove()
        skeleton.release(index)
        yield index


def _listen(layer: nn.Module, index: int, role: str, observe: Observe) -> RemovableHandle:
    name = layer_name(index, LINEARS[role])

    def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        observe(name, inputs[0].flatten(0, -2))

    return layer.get_submodule(LINEARS[role]).register_forward_pre_hook(hook)


def _first_readers(spec: ModelSpec) -> list[str]:
    layers = enumerate(spec.layers)
    return [layer_name(i, LINEARS[readers[0]]) for i, layer in layers for readers in readers_in(layer).values()]


def _readers(first: str, depth: int) -> list[str]:
    """All linears that read the input of ``first``."""
    for i in range(depth):
        for readers in READERS.values():
            names = [layer_name(i, LINEARS[reader]) for reader in readers]
            if names[0] == first:
                return names
    raise KeyError(first)

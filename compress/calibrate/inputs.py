"""What the inputs of the layers' linears look like on the calibration windows: their maxima and their histograms.

Linears that share an input (q, k, v; gate, up) are seen through the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgepress.artifact.families import LINEARS, READERS, layer_name
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.walk import LayerWalk
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
    found = {name: np.zeros(BINS) for name in _first_readers(source.spec.depth)}

    def observe(name: str, inputs: torch.Tensor) -> None:
        if not ends[name] > 0:
            return
        bins = (inputs.abs() * (BINS / ends[name])).to(torch.int32).clamp_(max=BINS - 1)
        counted = torch.from_numpy(weights[name]).expand(inputs.shape)
        found[name] += torch.bincount(bins.flatten(), counted.flatten(), BINS).numpy()

    _watch(source, windows, observe, "input histograms")
    return {reader: counts for name, counts in found.items() for reader in _readers(name, source.spec.depth)}


def _watch(source: WeightSource, windows: NDArray[np.int32], observe: Observe, what: str) -> None:
    """Run the model over the windows and show each input, (tokens, columns), to ``observe``."""
    walk = _WatchedWalk(source, windows, observe)
    with progress(what, source.spec.depth) as advance:
        for _ in walk.layers():
            advance(1)


class _WatchedWalk(LayerWalk):
    """A walk that shows the inputs of the first linear of each group."""

    def __init__(self, source: WeightSource, windows: NDArray[np.int32], observe: Observe) -> None:
        super().__init__(source, windows)
        for name in _first_readers(source.spec.depth):
            linear: nn.Module = self._model.get_submodule(name.removesuffix(".weight"))
            linear.register_forward_pre_hook(_hook(name, observe))


def _hook(name: str, observe: Observe) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
    return lambda _module, inputs: observe(name, inputs[0].flatten(0, -2))


def _first_readers(depth: int) -> list[str]:
    return [layer_name(i, LINEARS[readers[0]]) for i in range(depth) for readers in READERS.values()]


def _readers(first: str, depth: int) -> list[str]:
    """All linears that read the input of ``first``."""
    for i in range(depth):
        for readers in READERS.values():
            names = [layer_name(i, LINEARS[reader]) for reader in readers]
            if names[0] == first:
                return names
    raise KeyError(first)

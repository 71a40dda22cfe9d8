"""Run a model layer by layer over the calibration windows, holding one layer's weights at a time.

Memory: the hidden states of all windows, one layer, and one batch of activations; it does not grow with depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgepress.artifact.families import LAYER
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.skeleton import Floats, Skeleton


class LayerVisit(msgspec.Struct, frozen=True, kw_only=True):
    """A layer's tensors, and the mean square of each input feature of its linears, by Hugging Face tensor name."""

    index: int
    tensors: dict[str, Floats]
    mean_square: dict[str, Floats]


class LayerWalk:
    """One pass over a model. Iterate :meth:`layers` to the end, then ask :meth:`head_mean_square`."""

    def __init__(self, source: WeightSource, windows: NDArray[np.int32]) -> None:
        self._skeleton = Skeleton(source, windows)
        self._hidden = self._skeleton.embed()

    @torch.inference_mode()
    def layers(self) -> Iterator[LayerVisit]:
        """Visit the layers in order."""
        for index in range(len(self._skeleton.layers)):
            tensors = self._skeleton.read_layer(index)
            layer = self._skeleton.fill(index, tensors)
            sums = _MeanSquares(layer, LAYER.format(i=index))
            for batch in self._skeleton.batches:
                self._hidden[batch] = self._skeleton.run(layer, index, self._hidden[batch])
            count = self._hidden.shape[0] * self._hidden.shape[1]
            yield LayerVisit(index=index, tensors=tensors, mean_square=sums.finish(count))
            self._skeleton.release(index)

    @torch.inference_mode()
    def head_mean_square(self) -> Floats:
        """Mean square of each feature that the head sees (after the final norm), (hidden,)."""
        norm = self._skeleton.final_norm()
        total = np.zeros(self._hidden.shape[2])
        for batch in self._skeleton.batches:
            total += norm(self._hidden[batch]).square().sum((0, 1), dtype=torch.float64).numpy()
        return (total / (self._hidden.shape[0] * self._hidden.shape[1])).astype(np.float32)


class _MeanSquares:
    """Sums the squares of each input feature of a layer's linears while it runs."""

    def __init__(self, layer: nn.Module, prefix: str) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._handles = [
            module.register_forward_pre_hook(self._hook(f"{prefix}{name}.weight"))
            for name, module in layer.named_modules()
            if isinstance(module, nn.Linear)
        ]

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def add(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            squares = inputs[0].flatten(0, -2).square().sum(0, dtype=torch.float64).numpy()
            self._sums[name] = self._sums.get(name, np.zeros_like(squares)) + squares

        return add

    def finish(self, count: int) -> dict[str, Floats]:
        """Take the hooks off; return the means over ``count`` tokens."""
        for handle in self._handles:
            handle.remove()
        return {name: (total / count).astype(np.float32) for name, total in self._sums.items()}

"""Run the original and the compressed model side by side, layer by layer, over the calibration windows.

Each layer is visited once. Its linears are taken in groups that read the same input, in the order of computation; a
group's statistics are asked for when everything before it has been replaced by what ships, so that they are those of
the compressed model, with the drift from the original beside them.

A forward pass for a group's inputs is cut off at the group, and repeated for the next: that costs about two passes more
than keeping the inputs would, and no memory. Held at a time: the hidden states of all windows, twice; one layer, twice;
one batch of activations.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgepress.artifact.families import LAYER
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.moments import InputStatistics, Moments
from edgepress.compress.calibrate.skeleton import Floats, Skeleton


class PairWalk:
    """One pass over both models. Iterate :meth:`layers` to the end, then ask :meth:`head_statistics`."""

    def __init__(self, source: WeightSource, windows: NDArray[np.int32], embedding: Floats | None = None) -> None:
        """``embedding`` is the compressed model's, if it is known by now."""
        self.skeleton = Skeleton(source, windows)
        self._original = self.skeleton.embed()
        self._compressed = self._original.clone() if embedding is None else self.skeleton.embed(embedding)

    def layers(self) -> Iterator[PairVisit]:
        """Visit the layers in order."""
        for index in range(len(self.skeleton.layers)):
            visit = PairVisit(self.skeleton, index, self._original, self._compressed)
            yield visit
            visit.finish()
            self.skeleton.release(index)

    @torch.inference_mode()
    def head_statistics(self) -> InputStatistics:
        """Of what the head sees."""
        norm, moments = self.skeleton.final_norm(), Moments()
        for batch in self.skeleton.batches:
            moments.add(norm(self._compressed[batch]), norm(self._original[batch]))
        return moments.finish()


class PairVisit:
    """One layer in both models."""

    def __init__(self, skeleton: Skeleton, index: int, original: torch.Tensor, compressed: torch.Tensor) -> None:
        self._skeleton, self.index = skeleton, index
        self._prefix = LAYER.format(i=index)
        self._hidden = (original, compressed)
        self.tensors = skeleton.read_layer(index)
        first = skeleton.fill(index, self.tensors)
        self._layers = (first, copy.deepcopy(first))

    @torch.inference_mode()
    def statistics(self, name: str) -> InputStatistics:
        """Of the inputs of a linear, by its weight's Hugging Face name."""
        part, moments = name.removeprefix(self._prefix).removesuffix(".weight"), Moments()
        for batch in self._skeleton.batches:
            original, compressed = (self._input(which, part, batch) for which in (0, 1))
            moments.add(compressed, original)
        return moments.finish()

    def replace(self, name: str, values: Floats) -> None:
        """Put what ships into the compressed layer."""
        owner, _, leaf = name.removeprefix(self._prefix).rpartition(".")
        parameter = nn.Parameter(torch.from_numpy(values), requires_grad=False)
        setattr(self._layers[1].get_submodule(owner), leaf, parameter)

    @torch.inference_mode()
    def finish(self) -> None:
        """Run both layers to their end."""
        for layer, hidden in zip(self._layers, self._hidden, strict=True):
            for batch in self._skeleton.batches:
                hidden[batch] = self._skeleton.run(layer, self.index, hidden[batch])

    def _input(self, which: int, part: str, batch: slice) -> torch.Tensor:
        """The input of a linear in one of the models, for one batch."""
        layer = self._layers[which]
        handle = layer.get_submodule(part).register_forward_pre_hook(_stop)
        try:
            self._skeleton.run(layer, self.index, self._hidden[which][batch])
        except _ReachedError as reached:
            return reached.inputs
        finally:
            handle.remove()
        raise AssertionError(f"{self._prefix}{part} was not called")


class _ReachedError(Exception):
    """Carries a linear's input out of a forward pass that need not go on."""

    def __init__(self, inputs: torch.Tensor) -> None:
        super().__init__()
        self.inputs = inputs


def _stop(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
    raise _ReachedError(inputs[0])

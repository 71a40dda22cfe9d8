"""Run the original and the compressed model side by side, layer by layer, over the calibration windows.

Each layer is visited once. Its linears are taken in groups that read the same input, in the order of computation; a
group's statistics are asked for when everything before it has been replaced by what ships, so that they are those of
the compressed model, with the drift from the original beside them.

A forward pass for a group's inputs is cut off at the group. The next one does not repeat what led to the last linear of
a block (attention, MLP): that linear's inputs are kept, and the block resumes from there. The original does not wait
for the MLP's last linear to be replaced, so it goes on to the end of the layer at once.

Held at a time: the hidden states of all windows and the inputs of an attention's last linear, twice; those of an MLP's;
one layer, twice; one batch of activations.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgepress.artifact.families import LAYER, LINEARS
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.bfloat16 import bfloat16_products
from edgepress.compress.calibrate.moments import InputStatistics, Moments
from edgepress.compress.calibrate.resumed import LAST, resumed
from edgepress.compress.calibrate.skeleton import Floats, Skeleton

_LAST_OF_LAYER = LINEARS["ffn_down"]
_Kept = dict[str, torch.Tensor]
Observe = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]


class PairWalk:
    """One pass over both models. Iterate :meth:`layers` to the end, then ask :meth:`head_statistics`."""

    def __init__(
        self,
        source: WeightSource,
        windows: NDArray[np.int32],
        embedding: Floats | None = None,
        *,
        bfloat16: bool = False,
        half: bool = False,
    ) -> None:
        """``embedding`` is the compressed model's, if it is known by now; ``bfloat16`` allows products of that where
        the processor has them, and ``half`` layers of which the results are rounded, too (``one_dnn``).
        """
        self._bfloat16 = bfloat16
        self.skeleton = Skeleton(source, windows, half=half)
        self._original = self.skeleton.embed()
        self._compressed = self._original.clone() if embedding is None else self.skeleton.embed(embedding)

    def layers(self) -> Iterator[PairVisit]:
        """Visit the layers in order."""
        for index in range(len(self.skeleton.layers)):
            visit = PairVisit(self.skeleton, index, self._original, self._compressed, bfloat16=self._bfloat16)
            yield visit
            visit.finish()
            self.skeleton.release(index)

    @torch.inference_mode()
    def head_statistics(self) -> InputStatistics:
        """Of what the head sees."""
        norm, moments = self.skeleton.final_norm(), Moments()
        with bfloat16_products(self._bfloat16):
            for batch in self.skeleton.batches:
                moments.add(norm(self._compressed[batch]), norm(self._original[batch]))
        return moments.finish()


class PairVisit:
    """One layer in both models."""

    def __init__(
        self, skeleton: Skeleton, index: int, original: torch.Tensor, compressed: torch.Tensor, *, bfloat16: bool
    ) -> None:
        self._skeleton, self.index, self._bfloat16 = skeleton, index, bfloat16
        self.windows, self.shape = skeleton.samples, skeleton.source.spec.layers[index]
        self._prefix = LAYER.format(i=index)
        self._hidden = (original, compressed)
        self.tensors = skeleton.read_layer(index)
        first = skeleton.fill(index, self.tensors)
        self._layers = (first, copy.deepcopy(first))
        # Inputs of last linears, all windows; those that are still being gathered.
        self._kept: tuple[_Kept, _Kept] = ({}, {})
        self._pending: tuple[_Kept, _Kept] = ({}, {})
        self._original_ended = False

    def statistics(self, name: str) -> InputStatistics:
        """Of the inputs of a linear, by its weight's Hugging Face name; as :meth:`observe`."""
        moments = Moments()
        self.observe(name, lambda compressed, original, _: moments.add(compressed, original))
        return moments.finish()

    @torch.inference_mode()
    def observe(self, name: str, add: Observe) -> None:
        """Show ``add`` the inputs of a linear, by its weight's Hugging Face name, batch by batch.

        It gets those of the compressed model, those of the original, and the original's residual stream: what the layer
        reads, or once the layer's last linear is asked for, what it leaves. To be asked for in the order of
        computation, once for linears that read the same inputs.
        """
        assert not self._original_ended, "the layer's last linear was asked for already"
        part = name.removeprefix(self._prefix).removesuffix(".weight")
        at_the_end = part == _LAST_OF_LAYER
        with bfloat16_products(self._bfloat16):
            for batch in self._skeleton.batches:
                original = self._end_original(batch) if at_the_end else self._input(0, part, batch)
                compressed = self._input(1, part, batch)
                add(compressed, original, self._hidden[0][batch])
                if part in LAST:
                    self._keep(1, part, batch, compressed)
                if part in LAST and not at_the_end:
                    self._keep(0, part, batch, original)
        for kept, pending in zip(self._kept, self._pending, strict=True):
            kept |= pending
            pending.clear()
        self._original_ended |= at_the_end

    def replace(self, name: str, values: Floats) -> None:
        """Put what ships into the compressed layer."""
        owner, _, leaf = name.removeprefix(self._prefix).rpartition(".")
        parameter = nn.Parameter(torch.from_numpy(values), requires_grad=False)
        setattr(self._layers[1].get_submodule(owner), leaf, parameter)

    @torch.inference_mode()
    def finish(self) -> None:
        """Run both layers to their end."""
        with bfloat16_products(self._bfloat16):
            for batch in self._skeleton.batches:
                if not self._original_ended:
                    self._end_original(batch)
                self._hidden[1][batch] = self._run(1, batch)

    def _run(self, which: int, batch: slice) -> torch.Tensor:
        """A batch through the layer of one of the models."""
        layer = self._layers[which]
        with resumed(layer, {part: inputs[batch] for part, inputs in self._kept[which].items()}):
            return self._skeleton.run(layer, self.index, self._hidden[which][batch])

    def _keep(self, which: int, part: str, batch: slice, inputs: torch.Tensor) -> None:
        pending = self._pending[which]
        if part not in pending:  # in one piece: many small ones leave holes in the memory
            pending[part] = inputs.new_empty(self._skeleton.samples, *inputs.shape[1:])
        pending[part][batch] = inputs

    def _input(self, which: int, part: str, batch: slice) -> torch.Tensor:
        """The input of a linear in one of the models, for one batch."""
        handle = self._layers[which].get_submodule(part).register_forward_pre_hook(_stop)
        try:
            self._run(which, batch)
        except _ReachedError as reached:
            return reached.inputs
        finally:
            handle.remove()
        raise AssertionError(f"{self._prefix}{part} was not called")

    def _end_original(self, batch: slice) -> torch.Tensor:
        """Run the original's layer to its end, and return the inputs of its last linear, for one batch."""
        seen: list[torch.Tensor] = []
        last = self._layers[0].get_submodule(_LAST_OF_LAYER)
        handle = last.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        try:
            self._hidden[0][batch] = self._run(0, batch)
        finally:
            handle.remove()
        return seen[0]


class _ReachedError(Exception):
    """Carries a linear's input out of a forward pass that need not go on."""

    def __init__(self, inputs: torch.Tensor) -> None:
        super().__init__()
        self.inputs = inputs


def _stop(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
    raise _ReachedError(inputs[0])

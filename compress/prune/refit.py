"""After layers are dropped: what is left is solved, in closed form, for the residual stream of the whole model.

A linear that writes into the stream (the last of an attention, the last of a feed-forward) reads x and the stream
becomes s + W x. Where the whole model has the stream s° at that place, the best weights and what they lose are

    min over W' of E w |s° - s - W' x|²  =  W + E[w (s° - s - W x) xᵀ] (E[w x xᵀ] + λ I)⁻¹,        w = 1 / mean s°²

a linear regression with a ridge that pulls towards the weights as they were, as far as held-out windows ask for
(``ridge``). Layers are taken in order, each on the inputs that those before it leave by then. In front of a gap s° is
the stream *behind* the dropped layers: there W' does their work as far as it is linear in x. From there on every linear
makes up for what is still missing.

Source: the fit in front of the gap is close to ReplaceMe's (Shopkhoev et al., arXiv 2505.02819), which multiplies a
feed-forward's output by a matrix that is fitted; a whole new W has more freedom at no parameter more. Going on behind
the gap is what OBS repairs do for the layers behind a pruned one (``obs``). Tokens count by their share of the stream,
as they do there (``moments``).

It is not done where the output of a linear is normalised before the stream takes it (gemma3): nothing there is linear.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgepress.artifact.families import LINEARS, layer_name
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.bfloat16 import bfloat16_products
from edgepress.compress.calibrate.skeleton import Floats, Skeleton
from edgepress.compress.prune.ridge import Regression

Tensors = dict[str, Floats]


def refit(
    source: WeightSource, stays: list[int], windows: NDArray[np.int32], *, bfloat16: bool = False
) -> Iterator[Tensors]:
    """The layers that stay, solved, with the names that they have in the source.

    Args:
        source: the whole model, whose linears write into the stream directly.
        stays: indices of the layers that stay, ascending.
        windows: calibration tokens, int32, (samples, length).
        bfloat16: whether products may be of bfloat16 factors.
    """
    walk = _Walk(source, windows, bfloat16=bfloat16)
    for index in range(stays[0]):
        walk.skip(index)
    for place, index in enumerate(stays):
        until = stays[place + 1] if place + 1 < len(stays) else source.spec.depth
        yield walk.visit(index, until)


class _Walk:
    """The whole model's stream and that of what is left, layer by layer over all windows."""

    def __init__(self, source: WeightSource, windows: NDArray[np.int32], *, bfloat16: bool) -> None:
        self._skeleton, self._bfloat16 = Skeleton(source, windows), bfloat16
        self._whole = self._skeleton.embed()
        self._left = self._whole  # one and the same as long as nothing is missing

    def skip(self, index: int) -> None:
        """A dropped layer: only the whole model has it."""
        self._part()
        self._advance(self._skeleton.fill(index, self._skeleton.read_layer(index)), index)
        self._skeleton.release(index)

    def visit(self, index: int, until: int) -> Tensors:
        """A layer that stays, behind which those before layer ``until`` are dropped; its tensors."""
        tensors = self._skeleton.read_layer(index)
        layer = self._skeleton.fill(index, tensors)
        parted = self._left is not self._whole
        if not parted and until == index + 1:
            self._advance(layer, index)
        else:
            mine = copy.deepcopy(layer)
            if parted:
                self._solve(tensors, index, mine, "attn_output", layer)
            self._part()
            self._advance(layer, index)
            for dropped in range(index + 1, until):
                self.skip(dropped)
            self._solve(tensors, index, mine, "ffn_down", None)
            self._follow(mine, index)
        self._skeleton.release(index)
        return tensors

    def _part(self) -> None:
        if self._left is self._whole:
            self._left = self._whole.clone()

    @torch.inference_mode()
    def _advance(self, layer: nn.Module, index: int) -> None:
        """Take the whole model's stream through a layer; that of what is left goes along where it is the same."""
        with bfloat16_products(self._bfloat16):
            for batch in self._skeleton.batches:
                self._whole[batch] = self._skeleton.run(layer, index, self._whole[batch])

    @torch.inference_mode()
    def _follow(self, layer: nn.Module, index: int) -> None:
        with bfloat16_products(self._bfloat16):
            for batch in self._skeleton.batches:
                self._left[batch] = self._skeleton.run(layer, index, self._left[batch])

    @torch.inference_mode()
    def _solve(self, tensors: Tensors, index: int, mine: nn.Module, role: str, layer: nn.Module | None) -> None:
        """Solve a linear of ``mine`` and put it into ``tensors``.

        The stream wanted behind it is that which ``layer`` has there, or the whole model's where it stands now.
        """
        part = LINEARS[role]
        name = layer_name(index, part)
        regression = Regression(tensors[name].shape[1], tensors[name].shape[0], self._skeleton.samples)
        with bfloat16_products(self._bfloat16):
            for batch in self._skeleton.batches:
                before, inputs, output = self._written(mine, part, index, self._left[batch])
                wanted = self._whole[batch]
                if layer is not None:
                    stream, _, written = self._written(layer, part, index, wanted)
                    wanted = stream + written
                weights = 1 / wanted.square().mean(-1, keepdim=True).clamp(min=1e-20)
                regression.add(inputs, wanted - before - output, weights)
        solved = torch.from_numpy(tensors[name]).double() + regression.change()
        tensors[name] = solved.float().numpy()
        mine.get_parameter(f"{part}.weight").copy_(solved)

    def _written(
        self, layer: nn.Module, part: str, index: int, hidden: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The stream that a linear's output is added to, the linear's inputs and its output."""
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        handle = layer.get_submodule(part).register_forward_hook(
            lambda _module, inputs, output: seen.append((inputs[0], output))
        )
        try:
            after = self._skeleton.run(layer, index, hidden)
        finally:
            handle.remove()
        inputs, output = seen[0]
        return (hidden if part == LINEARS["attn_output"] else after - output), inputs, output

"""After channels of the residual stream, neurons or heads are gone: what is left is solved, in closed form, for the
whole model.

The whole model's stream is s°, that of the narrow one is s, and C are the channels that it has. Layer by layer, each
on the inputs that those before it leave by then:

    a linear that reads the stream        min over W' of E |W° n°(s°) + b - W' n(s) - b|²,     n the norm in front of it
    a linear that writes into it          min over W' of E w |s°_C - s - W' x|²,               w = 1 / mean s°²

both linear regressions with a ridge that pulls towards the slices of the weights, as far as held-out windows ask for
(``ridge``). A reader gets back what the missing channels told it as far as the others tell it too; a writer makes up
for what those before it did wrong. A head of its own is solved like a reader, with the whole model's norm n° written
as a linear function of n: W' = W° (S + Δ), S the choice of channels. A head that is the embedding stays as it is.

What makes neurons or heads of which some are gone is left as it is: the whole model has others beside them.

Source: the reconstruction of layers after width pruning, as in ``refit`` and ``obs``; for this axis it is our own
choice. Where the stream takes a linear's output through a norm (gemma3), what writes is not solved.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgepress.artifact.families import FAMILIES, HEAD, LINEAR_GROUPS, LINEARS, layer_name
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.bfloat16 import bfloat16_products
from edgepress.compress.calibrate.skeleton import Floats, Skeleton
from edgepress.compress.prune.ridge import Regression

Tensors = dict[str, Floats]
_ROWS_AT_ONCE = 4096  # of a head, in float64
_WRITERS = (LINEARS["attn_output"], LINEARS["ffn_down"])


@dataclass(frozen=True)
class _Seen:
    """Of linears that read the same: their inputs, their outputs side by side, and the stream that they lead to."""

    inputs: torch.Tensor
    outputs: torch.Tensor
    stream: torch.Tensor


class NarrowWalk:
    """Both models' streams, layer by layer over all windows: :meth:`layers` to the end, then :meth:`head`."""

    def __init__(
        self,
        whole: WeightSource,
        narrow: WeightSource,
        channels: NDArray[np.intp],
        windows: NDArray[np.int32],
        *,
        bfloat16: bool = False,
    ) -> None:
        """Start before the first layer.

        Args:
            whole: the model.
            narrow: its slices, of the same layers.
            channels: C, of the whole model's stream, ascending.
            windows: calibration tokens, int32, (samples, length).
            bfloat16: whether products may be of bfloat16 factors.
        """
        self._channels = torch.from_numpy(channels)
        self._skeletons = Skeleton(whole, windows), Skeleton(narrow, windows)
        self._streams = [skeleton.embed() for skeleton in self._skeletons]
        self._writes_directly = not FAMILIES[whole.spec.family].sandwich
        self._bfloat16 = bfloat16

    def layers(self) -> Iterator[Tensors]:
        """The narrow model's layers, solved, by Hugging Face name."""
        for index in range(len(self._skeletons[0].layers)):
            tensors = [skeleton.read_layer(index) for skeleton in self._skeletons]
            pair = [skeleton.fill(index, own) for skeleton, own in zip(self._skeletons, tensors, strict=True)]
            for group in LINEAR_GROUPS:
                if self._can_solve(group, [len(own[layer_name(index, group[0])]) for own in tensors]):
                    self._solve(tensors[1], index, pair, group)
            self._advance(pair, index)
            for skeleton in self._skeletons:
                skeleton.release(index)
            yield tensors[1]

    def _can_solve(self, group: tuple[str, ...], rows: list[int]) -> bool:
        """A writer where the stream takes its output as it is, a reader that makes all that the whole model's does."""
        return self._writes_directly if group[0] in _WRITERS else rows[0] == rows[1]

    @torch.inference_mode()
    def head(self) -> Floats:
        """A head of its own, solved, (vocabulary, channels)."""
        whole, narrow = (skeleton.final_norm() for skeleton in self._skeletons)
        hidden = self._skeletons[0].source.spec.hidden
        regression = Regression(len(self._channels), hidden, self._skeletons[0].samples)
        for batch in self._skeletons[0].batches:
            wanted, inputs = whole(self._streams[0][batch]), narrow(self._streams[1][batch])
            missing = wanted.clone()  # n° - S n
            missing[..., self._channels] -= inputs
            regression.add(inputs, missing, torch.ones(*inputs.shape[:2], 1))
        weight, solved = (skeleton.source.read(HEAD) for skeleton in self._skeletons)
        change = regression.change().numpy()
        for start in range(0, len(weight), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            solved[rows] += (weight[rows].astype(np.float64) @ change).astype(np.float32)
        return solved

    @torch.inference_mode()
    def _advance(self, pair: list[nn.Module], index: int) -> None:
        with bfloat16_products(self._bfloat16):
            for skeleton, layer, stream in zip(self._skeletons, pair, self._streams, strict=True):
                for batch in skeleton.batches:
                    stream[batch] = skeleton.run(layer, index, stream[batch])

    @torch.inference_mode()
    def _solve(self, tensors: Tensors, index: int, pair: list[nn.Module], group: tuple[str, ...]) -> None:
        """Solve linears of the narrow layer that read the same inputs, and put them into ``tensors``."""
        names = [layer_name(index, part) for part in group]
        rows = [len(tensors[name]) for name in names]
        regression = Regression(tensors[names[0]].shape[1], sum(rows), self._skeletons[0].samples)
        with bfloat16_products(self._bfloat16):
            for batch in self._skeletons[0].batches:
                seen = [self._seen(which, pair[which], index, group, batch) for which in (0, 1)]
                missing, weights = self._missing(seen, group)
                regression.add(seen[1].inputs, missing, weights)
        for part, name, change in zip(group, names, regression.change().split(rows), strict=True):
            solved = torch.from_numpy(tensors[name]).double() + change
            tensors[name] = solved.float().numpy()
            pair[1].get_parameter(f"{part}.weight").copy_(solved)

    def _missing(self, seen: list[_Seen], group: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """What the narrow model's outputs, or its stream, lack, and what each token counts."""
        if group[0] in _WRITERS:
            wanted, stream = seen[0].stream, seen[1].stream
            weights = 1 / wanted.square().mean(-1, keepdim=True).clamp(min=1e-20)
            return wanted[..., self._channels] - stream, weights
        return seen[0].outputs - seen[1].outputs, torch.ones(*seen[1].outputs.shape[:2], 1)

    def _seen(self, which: int, layer: nn.Module, index: int, group: tuple[str, ...], batch: slice) -> _Seen:
        """Run a batch through a layer of one of the models."""
        before, found = self._streams[which][batch], list[tuple[torch.Tensor, torch.Tensor]]()
        handles = [
            layer.get_submodule(part).register_forward_hook(lambda _, i, output: found.append((i[0], output)))
            for part in group
        ]
        try:
            after = self._skeletons[which].run(layer, index, before)
        finally:
            for handle in handles:
                handle.remove()
        outputs = torch.cat([output for _, output in found], -1)
        behind = before + outputs if group[0] == _WRITERS[0] else after
        return _Seen(found[0][0], outputs, behind)

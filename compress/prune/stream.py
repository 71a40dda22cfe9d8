"""A model's residual stream over all windows, taken through its layers one by one.

What the last linear of a layer's attention, or of its feed-forward, reads is kept once it has been asked for, and what
leads to it is not run again: nothing of that may be replaced from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.hooks import RemovableHandle

from edgepress.artifact.families import LAYER, LINEARS
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.resumed import LAST, resumed
from edgepress.compress.calibrate.skeleton import Floats, Skeleton

ATTENTION_WRITER, FFN_WRITER = LINEARS["attn_output"], LINEARS["ffn_down"]
FFN_BLOCK = FFN_WRITER.rpartition(".")[0]


@dataclass(frozen=True)
class Seen:
    """Of linears that read the same and a batch of windows: their inputs, their outputs side by side, and of what
    writes into the stream, the stream behind it.
    """

    inputs: torch.Tensor
    outputs: torch.Tensor
    stream: torch.Tensor


class _SeenAllError(Exception):
    """Ends the pass through a layer once its linears have been seen."""


class Stream:
    """Where the walk stands: ``values`` in front of a layer, (samples, length, hidden), and that layer, filled."""

    def __init__(
        self,
        source: WeightSource,
        windows: NDArray[np.int32],
        values: torch.Tensor | None = None,
        *,
        half: bool = False,
    ) -> None:
        """Start in front of the first layer.

        Args:
            source: the model.
            windows: calibration tokens, int32, (samples, length).
            values: a stream to share, which nothing is written into but by its owner; the embedding's by default.
            half: whether layers may run in bfloat16 where that is faster (``skeleton``).
        """
        self.source, self._skeleton = source, Skeleton(source, windows, half=half)
        self.batches, self.windows = self._skeleton.batches, len(windows)
        embedded = self._skeleton.embed()
        self.values = embedded if values is None else values
        self.tensors: dict[str, Floats] = {}
        self._kept: dict[str, torch.Tensor] = {}  # inputs of the layer's last linears, all windows
        self._gathered = torch.empty(0)  # the same of one of them, while it is being asked for
        self.index = 0

    def enter(self, index: int) -> None:
        """Fill layer ``index``."""
        self.index, self.tensors = index, self._skeleton.read_layer(index)
        self._skeleton.fill(index, self.tensors)

    def leave(self) -> None:
        """Empty the layer that was entered."""
        self._kept.clear()
        self._gathered = torch.empty(0)
        self._skeleton.release(self.index)

    @torch.inference_mode()
    def advance(self) -> None:
        """Go to the other side of the layer that was entered."""
        for batch in self.batches:
            after = self._run(batch)
            assert after is not None, "no hook is set"
            self.values[batch] = after

    def name(self, part: str) -> str:
        """Of a linear's weight in the layer that was entered."""
        return f"{LAYER.format(i=self.index)}{part}.weight"

    def replace(self, part: str, weight: torch.Tensor) -> None:
        """Give a linear of the layer that was entered another weight."""
        self.tensors[self.name(part)] = weight.float().numpy()
        self._layer.get_parameter(f"{part}.weight").copy_(weight)

    def seen(self, group: tuple[str, ...], batch: slice) -> Seen:
        """What linears of the layer that was entered read and make of a batch of windows."""
        before, found = self.values[batch], list[tuple[torch.Tensor, torch.Tensor]]()
        goes_on = group[0] == FFN_WRITER  # nothing else is wanted of what comes behind

        def note(_module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            found.append((inputs[0], output))
            if len(found) == len(group) and not goes_on:
                raise _SeenAllError

        after = self._run(batch, [self._layer.get_submodule(part).register_forward_hook(note) for part in group])
        outputs = torch.cat([output for _, output in found], -1)
        if group[0] in LAST:
            self._keep(group[0], batch, found[0][0])
        if after is None:
            after = before + outputs if group[0] in LAST else before
        return Seen(found[0][0], outputs, after)

    def before_feed_forward(self, batch: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """What the feed-forward of the layer that was entered reads of a batch, and the stream that it adds to, in a
        model whose linears write into that directly.
        """
        written, read = list[torch.Tensor](), list[torch.Tensor]()

        def note(_module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
            read.append(inputs[0])
            raise _SeenAllError

        handles = [self.feed_forward.register_forward_pre_hook(note)]
        if self.source.spec.layers[self.index].heads:
            writer = self._layer.get_submodule(ATTENTION_WRITER)
            handles.append(writer.register_forward_hook(lambda _module, _inputs, output: written.append(output)))
        self._run(batch, handles)
        return read[0], sum(written, self.values[batch])

    def _keep(self, part: str, batch: slice, inputs: torch.Tensor) -> None:
        if batch.start == 0:  # in one piece: many small ones leave holes in the memory
            self._gathered = inputs.new_empty(self.windows, *inputs.shape[1:])
        self._gathered[batch] = inputs
        if batch == self.batches[-1]:
            self._kept[part], self._gathered = self._gathered, torch.empty(0)

    def _run(self, batch: slice, handles: Sequence[RemovableHandle] = ()) -> torch.Tensor | None:
        """A batch through the layer that was entered; None where a hook ended that. The hooks are removed."""
        try:
            with resumed(self._layer, {part: inputs[batch] for part, inputs in self._kept.items()}):
                return self._skeleton.run(self._layer, self.index, self.values[batch])
        except _SeenAllError:
            return None
        finally:
            for handle in handles:
                handle.remove()

    @property
    def feed_forward(self) -> torch.nn.Module:
        """That of the layer that was entered."""
        return self._layer.get_submodule(FFN_BLOCK)

    def run_feed_forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the feed-forward of the layer that was entered makes of other inputs."""
        with self._skeleton.linears:
            outputs: torch.Tensor = self.feed_forward(inputs)
        return outputs

    @torch.inference_mode()
    def normed(self, batch: slice) -> torch.Tensor:
        """A batch behind the last norm."""
        return self._skeleton.final_norm()(self.values[batch])

    @property
    def _layer(self) -> torch.nn.Module:
        return self._skeleton.layers[self.index]

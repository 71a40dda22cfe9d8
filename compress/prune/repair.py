"""After something is gone from a model: what is left is solved, in closed form, for what the whole model does.

The whole model's residual stream is s°, that of the smaller one is s, and C are the channels that it has. Layer by
layer, each on the inputs that those before it leave by then:

    a linear that reads the stream        min over W' of E |W° n°(s°) + b - W' n(s) - b|²,     n the norm in front of it
    a linear that writes into it          min over W' of E w |s°_C - s - W' x|²,               w = 1 / mean s°²

both linear regressions with a ridge that pulls towards the weights as they were, as far as held-out windows ask for
(``ridge``). A reader gets back what the stream no longer tells it as far as the rest of it does; a writer makes up for
what those before it did wrong. In front of a gap of dropped layers, s° is the stream *behind* them for the last linear
before it: there W' does their work as far as it is linear in x. (In front of attention that is gone the same brings
nothing: the feed-forward right behind does as well.) A head of its own is solved like a reader where channels are gone,
with the whole model's norm n° written as a linear function of n: W' = W° (S + Δ), S the choice of channels. A head that
is the embedding stays as it is.

What makes neurons or heads of which some are gone is not solved: the whole model has others beside them. A feed-forward
of which neurons are gone may be trained first, before its writer is solved, to do what the whole one did
(``reconstruct``). As long as nothing is missing, the two streams are one and nothing is solved.

Source: the fit in front of a gap is close to ReplaceMe's (Shopkhoev et al., arXiv 2505.02819), which multiplies a
feed-forward's output by a matrix that is fitted; a whole new W has more freedom at no parameter more. Going on from
there is what OBS repairs do for the layers behind a pruned one (``obs``); for channels it is our own choice. Tokens
count for a writer by their share of the stream, as they do there (``moments``).

Where the stream takes a linear's output through a norm (gemma3), what writes is not solved: nothing there is linear.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.artifact.families import EMBEDDING, FAMILIES, FINAL_NORM, HEAD, LAYER, LINEARS, linear_groups_of
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.bfloat16 import bfloat16_products
from edgepress.compress.calibrate.skeleton import Floats
from edgepress.compress.prune.reconstruct import Wanted, reconstruct
from edgepress.compress.prune.removed import Removed, read_removed
from edgepress.compress.prune.ridge import EVERY, HeldOut, Regression, token_weights
from edgepress.compress.prune.stage import StageWriter, Tensors
from edgepress.compress.prune.stream import ATTENTION_WRITER, FFN_BLOCK, FFN_WRITER, Stream
from edgepress.compress.student.checkpoint import CheckpointStudent

_FFN_MAKERS = (LINEARS["ffn_gate"], LINEARS["ffn_up"])
_ROWS_AT_ONCE = 4096  # of a head, in float64
_EVERY_OF_TRAINED = 8  # one window of so many judges: text is worth more to what is trained


def writes_directly(source: WeightSource) -> bool:
    """Whether this model's linears write into the residual stream directly, so that they can be solved for it."""
    return not FAMILIES[source.spec.family].sandwich


def repair(
    source: WeightSource,
    pruned_at: Path,
    windows: NDArray[np.int32],
    directory: Path,
    *,
    name: str,
    trains: bool = False,
) -> None:
    """Write a pruned model, solved, as a float32 checkpoint into ``directory``.

    Args:
        source: the model before the step.
        pruned_at: directory of the checkpoint that the step left, with what it removed.
        windows: calibration tokens, int32, (samples, length).
        directory: where the checkpoint goes; other files in it stay.
        name: the model's name.
        trains: whether feed-forwards that have lost neurons are reconstructed.

    Raises:
        InputError: the model overflows.
    """
    pruned, removed = CheckpointStudent(pruned_at), read_removed(pruned_at) or Removed()
    walk = RepairWalk(source, pruned, removed, windows, bfloat16=True, trains=trains)
    writer = StageWriter(directory, pruned.spec.depth)
    writer.write_layers(walk.layers(), "prune (repair)")
    ends = {key: pruned.read(key) for key in (EMBEDDING, FINAL_NORM, HEAD) if key in pruned.names}
    if removed.channels and HEAD in ends:
        ends[HEAD] = walk.head()
    writer.finish(ends, pruned.tokenizer_dir, removed, pruned.config, name)


class RepairWalk:
    """Both models' streams, layer by layer over all windows: :meth:`layers` to the end, then :meth:`head`."""

    def __init__(
        self,
        whole: WeightSource,
        smaller: WeightSource,
        removed: Removed,
        windows: NDArray[np.int32],
        *,
        bfloat16: bool = False,
        trains: bool = False,
    ) -> None:
        """Start before the first layer.

        Args:
            whole: the model.
            smaller: what is left of it.
            removed: what is not.
            windows: calibration tokens, int32, (samples, length).
            bfloat16: whether products may be of bfloat16 factors, and the layers' results rounded to it.
            trains: whether feed-forwards that have lost neurons are reconstructed.
        """
        self._stays = removed.kept_layers(whole.spec.depth)
        self._channels = torch.tensor(removed.channels or range(whole.spec.hidden))
        self._whole = Stream(whole, windows, half=bfloat16)
        self._parted = bool(removed.channels)
        self._smaller = Stream(smaller, windows, None if self._parted else self._whole.values, half=bfloat16)
        self._writers = (ATTENTION_WRITER, FFN_WRITER) if writes_directly(whole) else ()
        self._bfloat16, self._trains = bfloat16, trains and bool(self._writers)

    def layers(self) -> Iterator[Tensors]:
        """The smaller model's layers, solved, by Hugging Face name."""
        depth = self._whole.source.spec.depth
        with bfloat16_products(self._bfloat16):
            self._skip(range(self._stays[0]))
        for place, (index, until) in enumerate(zip(self._stays, (*self._stays[1:], depth), strict=True)):
            with bfloat16_products(self._bfloat16):
                tensors = self._visit(index, place, until)
            yield tensors

    def _skip(self, indices: range) -> None:
        """Layers that only the whole model has."""
        for index in indices:
            self._part()
            self._whole.enter(index)
            self._whole.advance()
            self._whole.leave()

    def _part(self) -> None:
        if not self._parted:
            self._smaller.values, self._parted = self._whole.values.clone(), True

    def _visit(self, index: int, place: int, until: int) -> Tensors:
        """Solve layer ``place`` of the smaller model: ``index`` of the whole one, behind which those before ``until``
        are dropped.
        """
        self._whole.enter(index)
        self._smaller.enter(place)
        if not self._parted and until == index + 1 and self._alike(index, place):
            self._advance_whole(index + 1)
        else:
            self._part()
            every = EVERY
            for group in linear_groups_of(self._smaller.source.spec.layers[place]):
                if group[0] == FFN_WRITER:
                    self._advance_whole(until)
                if self._can_solve(group):
                    self._solve(group, every)
                elif group == _FFN_MAKERS and self._trains:
                    self._reconstruct()
                    every = _EVERY_OF_TRAINED  # the same windows judge what is solved behind it
            self._smaller.advance()
        self._smaller.leave()
        return self._smaller.tensors

    def _advance_whole(self, until: int) -> None:
        """To the other side of its layer, and of those behind it and before layer ``until``."""
        self._whole.advance()
        self._whole.leave()
        self._skip(range(self._whole.index + 1, until))

    def _alike(self, index: int, place: int) -> bool:
        """Whether both have the same weights in their layer; a bias that is zero is as good as none."""
        old, new = LAYER.format(i=index), LAYER.format(i=place)
        own = {new + key.removeprefix(old): values for key, values in self._whole.tensors.items()}
        mine = self._smaller.tensors
        added = mine.keys() - own.keys()
        same = own.keys() <= mine.keys() and all(np.array_equal(own[key], mine[key]) for key in own)
        return same and not any(mine[key].any() for key in added)

    def _can_solve(self, group: tuple[str, ...]) -> bool:
        """A writer where the stream takes its output as it is, a reader that makes all that the whole model's does."""
        if group[0] in (ATTENTION_WRITER, FFN_WRITER):
            return group[0] in self._writers
        rows = [len(stream.tensors[stream.name(group[0])]) for stream in (self._whole, self._smaller)]
        return rows[0] == rows[1]

    @torch.inference_mode()
    def _solve(self, group: tuple[str, ...], every: int) -> None:
        """Solve linears of the smaller model's layer that read the same inputs."""
        weights = [self._smaller.tensors[self._smaller.name(part)] for part in group]
        rows = [len(weight) for weight in weights]
        name = self._smaller.name(group[0])
        regression = Regression(weights[0].shape[1], sum(rows), self._smaller.windows, name, every)
        for batch in self._smaller.batches:
            regression.add(*self._missing(group, batch))
        for part, weight, change in zip(group, weights, regression.change().split(rows), strict=True):
            self._smaller.replace(part, torch.from_numpy(weight).double() + change)

    def _reconstruct(self) -> None:
        """Train the feed-forward of the smaller model's layer, short of neurons, to do what the whole one did."""
        parts, held_out = (*_FFN_MAKERS, FFN_WRITER), HeldOut(self._smaller.windows, _EVERY_OF_TRAINED)
        kept = [held_out.of(self._smaller.values[batch]).flatten() for batch in self._smaller.batches]
        names = tuple(f"{part.removeprefix(FFN_BLOCK + '.')}.weight" for part in parts)
        found = reconstruct(self._smaller.feed_forward, names, self._wanted(), torch.cat(kept))
        for part, weight in zip(parts, found, strict=True):
            self._smaller.replace(part, weight)

    @torch.no_grad()  # not inference_mode: what is found takes part in a backward pass
    def _wanted(self) -> Wanted:
        """Of the smaller model's feed-forward, of all tokens: what the whole one would make of the same inputs. What
        those lack already is not in it, for most of that cannot be told from them, and would be noise to learn.
        """
        values = self._smaller.values
        inputs, outputs, weights = (values.new_empty(each.shape) for each in (values, values, values[..., :1]))
        for batch in self._smaller.batches:
            inputs[batch], stream = self._smaller.before_feed_forward(batch)
            outputs[batch] = self._whole.run_feed_forward(inputs[batch])
            weights[batch] = token_weights(stream + outputs[batch])
        return Wanted(*(each.flatten(0, 1) for each in (inputs, outputs, weights)))

    def _missing(self, group: tuple[str, ...], batch: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of a batch: the smaller model's inputs, what its outputs or its stream lack, and what each token counts."""
        mine = self._smaller.seen(group, batch)
        if group[0] not in self._writers:
            missing = self._whole.seen(group, batch).outputs - mine.outputs
            return mine.inputs, missing, torch.ones(*missing.shape[:2], 1)
        # The whole model's stream already stands behind what is wanted of a feed-forward.
        stands = group[0] == FFN_WRITER
        wanted = self._whole.values[batch] if stands else self._whole.seen(group, batch).stream
        return mine.inputs, wanted[..., self._channels] - mine.stream, token_weights(wanted)

    @torch.inference_mode()
    def head(self) -> Floats:
        """A head of its own, solved, (vocabulary, channels)."""
        hidden = self._whole.source.spec.hidden
        regression = Regression(len(self._channels), hidden, self._smaller.windows, HEAD)
        for batch in self._smaller.batches:
            wanted, inputs = self._whole.normed(batch), self._smaller.normed(batch)
            missing = wanted.clone()  # n° - S n
            missing[..., self._channels] -= inputs
            regression.add(inputs, missing, torch.ones(*inputs.shape[:2], 1))
        weight, solved = (stream.source.read(HEAD) for stream in (self._whole, self._smaller))
        change = regression.change().numpy()
        for start in range(0, len(weight), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            solved[rows] += (weight[rows].astype(np.float64) @ change).astype(np.float32)
        return solved

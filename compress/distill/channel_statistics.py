"""What a model's channels carry on calibration text: which matter most, and how large the inputs of its norms are.

    importance of a residual channel   Σ over the norms before attention, feed-forward and head of mean |norm(x)|
    of a feed-forward channel          mean |x| at the input of down_proj
    of a query head                    mean ‖x‖₂ of its part of the input of o_proj

Source: Minitron (arXiv 2407.14679), section 2.2, mean over tokens. The mean squares of the norms' inputs tell what a
norm over a part of its channels divides by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.hooks import RemovableHandle

from edgepress.artifact.families import FAMILIES, FINAL_NORM, LINEARS, layer_name
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.skeleton import Skeleton

Means = NDArray[np.float64]
_See = Callable[[torch.Tensor], None]
_Measure = tuple[str, _See, bool]


@dataclass(frozen=True)
class ChannelStatistics:
    """Means over the tokens of a text, float64.

    hidden        (hidden,), importance of residual channels
    ffn           by layer, (ffn,)
    heads         by layer, (heads,)
    norm_inputs   name of a norm's weight → mean square of each of its input channels
    """

    hidden: Means
    ffn: tuple[Means, ...]
    heads: tuple[Means, ...]
    norm_inputs: dict[str, Means]

    def digest(self) -> bytes:
        """All numbers, as bytes."""
        norms = [self.norm_inputs[name] for name in sorted(self.norm_inputs)]
        return b"".join(array.tobytes() for array in (self.hidden, *self.ffn, *self.heads, *norms))


@torch.inference_mode()
def channel_statistics(source: WeightSource, windows: NDArray[np.int32]) -> ChannelStatistics:
    """Run the model over calibration text, one layer in memory at a time.

    Args:
        source: the model.
        windows: int32, (samples, length).
    """
    skeleton, spec, family = Skeleton(source, windows), source.spec, FAMILIES[source.spec.family]
    means, hidden, readers = _Means(), skeleton.embed(), [family.part(role) for role in ("attn_norm", "ffn_norm")]
    for index in range(spec.depth):
        layer = skeleton.fill(index, skeleton.read_layer(index))
        with _watched(layer, _measures(means, index, family.norms, readers, spec.layers[index].heads)):
            for batch in skeleton.batches:
                hidden[batch] = skeleton.run(layer, index, hidden[batch])
        skeleton.release(index)
    norm = skeleton.final_norm()
    for batch in skeleton.batches:
        means.watch(f"in {FINAL_NORM}", torch.square)(hidden[batch])
        means.watch(f"out {FINAL_NORM}", torch.abs)(norm(hidden[batch]))
    layers = range(spec.depth)
    seen = [layer_name(index, part) for index in layers for part in readers]
    norms = [layer_name(index, norm) for index in layers for norm in family.norms]
    return ChannelStatistics(
        hidden=np.sum([means.of(f"out {name}") for name in (*seen, FINAL_NORM)], axis=0),
        ffn=tuple(means.of(f"ffn {index}") for index in layers),
        heads=tuple(means.of(f"heads {index}") for index in layers),
        norm_inputs={name: means.of(f"in {name}") for name in (*norms, FINAL_NORM)},
    )


def _measures(means: _Means, index: int, norms: Iterable[str], readers: list[str], heads: int) -> list[_Measure]:
    """What is watched in a layer: the part's name, what to do with its values, whether those are its outputs."""
    inputs = [(part, means.watch(f"in {layer_name(index, part)}", torch.square), False) for part in norms]
    outputs = [(part, means.watch(f"out {layer_name(index, part)}", torch.abs), True) for part in readers]
    return [
        *inputs,
        *outputs,
        (LINEARS["ffn_down"], means.watch(f"ffn {index}", torch.abs), False),
        (LINEARS["attn_output"], means.watch(f"heads {index}", _lengths(heads)), False),
    ]


@contextmanager
def _watched(layer: nn.Module, measures: list[_Measure]) -> Iterator[None]:
    """While the block runs, parts of a layer show their values."""
    handles = [_at(layer.get_submodule(part), add, output=output) for part, add, output in measures]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Means:
    """Running means over tokens, by key."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}

    def watch(self, key: str, measure: Callable[[torch.Tensor], torch.Tensor]) -> _See:
        def add(values: torch.Tensor) -> None:
            rows = measure(values.flatten(0, -2))
            total = rows.sum(0, dtype=torch.float64)
            self._sums[key] = self._sums[key] + total if key in self._sums else total
            self._counts[key] = self._counts.get(key, 0) + len(rows)

        return add

    def of(self, key: str) -> Means:
        mean: Means = (self._sums[key] / self._counts[key]).numpy()
        return mean


def _lengths(heads: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda rows: rows.unflatten(-1, (heads, -1)).norm(dim=-1)


def _at(module: nn.Module, see: _See, *, output: bool) -> RemovableHandle:
    def hook(_module: nn.Module, inputs: tuple[Any, ...], found: torch.Tensor) -> None:
        see(found if output else inputs[0])

    return module.register_forward_hook(hook)

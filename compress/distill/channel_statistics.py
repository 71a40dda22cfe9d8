"""What a model's channels carry on calibration text: which matter most, and how large the inputs of its norms are.

    importance of a residual channel   Σ over the norms before attention, feed-forward and head of mean |norm(x)|
    of a feed-forward channel          mean |x| at the input of down_proj
    of a query head                    mean ‖x‖₂ of its part of the input of o_proj

Source: Minitron (arXiv 2407.14679), section 2.2, mean over tokens. The mean squares of the norms' inputs tell what a
norm over a part of its channels divides by.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgepress.artifact.families import FAMILIES, FINAL_NORM, layer_name
from edgepress.artifact.weights import WeightSource
from edgepress.runtime.torch_reference import load_model

Means = NDArray[np.float64]
_WINDOW_TOKENS_AT_ONCE = 2048


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


def channel_statistics(source: WeightSource, windows: NDArray[np.int32]) -> ChannelStatistics:
    """Run the whole model over calibration text.

    Args:
        source: the model.
        windows: int32, (samples, length).
    """
    model, spec, family = load_model(source), source.spec, FAMILIES[source.spec.family]
    means = _Means()
    norms = [layer_name(index, norm) for index in range(spec.depth) for norm in family.norms] + [FINAL_NORM]
    readers = [
        layer_name(index, family.part(role)) for index in range(spec.depth) for role in ("attn_norm", "ffn_norm")
    ]
    for name in norms:
        _at(model, name, means.watch(f"in {name}", torch.square))
    for name in (*readers, FINAL_NORM):
        _at(model, name, means.watch(f"out {name}", torch.abs), output=True)
    for index, layer in enumerate(spec.layers):
        _at(model, layer_name(index, "mlp.down_proj"), means.watch(f"ffn {index}", torch.abs))
        _at(model, layer_name(index, "self_attn.o_proj"), means.watch(f"heads {index}", _lengths(layer.heads)))
    with torch.inference_mode():
        for batch in torch.from_numpy(windows.astype(np.int64)).split(_WINDOW_TOKENS_AT_ONCE // windows.shape[1] or 1):
            model.model(batch, use_cache=False)
    outputs = [means.of(f"out {name}") for name in (*readers, FINAL_NORM)]
    return ChannelStatistics(
        hidden=np.sum(outputs, axis=0),
        ffn=tuple(means.of(f"ffn {index}") for index in range(spec.depth)),
        heads=tuple(means.of(f"heads {index}") for index in range(spec.depth)),
        norm_inputs={name: means.of(f"in {name}") for name in norms},
    )


class _Means:
    """Running means over tokens, by key."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}

    def watch(self, key: str, measure: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], None]:
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


def _at(model: nn.Module, weight: str, see: Callable[[torch.Tensor], None], *, output: bool = False) -> None:
    module = model.get_submodule(weight.removesuffix(".weight"))

    def hook(_module: nn.Module, inputs: tuple[Any, ...], found: torch.Tensor) -> None:
        see(found if output else inputs[0])

    module.register_forward_hook(hook)

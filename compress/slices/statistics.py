"""What an encoder's channels carry on calibration inputs: which matter most, and how each norm's output is spread.

    importance of a residual channel   Σ over the layer norms of mean |y|, their output
    of a neuron                        mean |x| at the input of the second feed-forward linear
    of a head                          mean ‖x‖₂ of its part of the input of the attention's last linear
    of a pooler's output               mean |x| where a classifier reads it, or behind the activation

Means over all tokens, or patches, of the inputs. Source: as Minitron (arXiv 2407.14679), section 2.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgepress.artifact.encoder_families import EncoderFamily
from edgepress.compress.slices.norms import Moments, moments

Means = NDArray[np.float64]
Measure = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class EncoderStatistics:
    """Means over tokens, float64.

    hidden   (hidden,), importance of residual channels
    heads    by layer, (heads,)
    ffn      by layer, (ffn,)
    pooled   (pooled,); None where nothing is pooled
    norms    module name of each layer norm → moments of its output
    """

    hidden: Means
    heads: tuple[Means, ...]
    ffn: tuple[Means, ...]
    pooled: Means | None
    norms: dict[str, Moments]


def encoder_statistics(
    model: nn.Module,
    family: EncoderFamily,
    architecture: str,
    layers: int,
    heads: int,
    inputs: Mapping[str, torch.Tensor],
) -> EncoderStatistics:
    """Run a model over calibration inputs, all at once.

    Args:
        model: float32, in eval mode.
        family, architecture: what its modules are called.
        layers, heads: how many it has.
        inputs: of the model.
    """
    watched = _Watched(model)
    norms = family.norm_modules(architecture, range(layers))
    for name in norms:
        watched.output(name, name, torch.abs)
    attention, feed_forward = (
        family.before(architecture) + family.reader(axes) for axes in (("hidden", "heads"), ("hidden", "ffn"))
    )
    for layer in range(layers):
        watched.input(f"heads {layer}", attention.format(i=layer), _lengths(heads))
        watched.input(f"ffn {layer}", feed_forward.format(i=layer), torch.abs)
    for name, is_output in _pooled_at(model, family, architecture):
        (watched.output if is_output else watched.input)("pooled", name, torch.abs)
    watched.run(inputs)
    return EncoderStatistics(
        hidden=np.sum([watched.means[name] for name in norms], axis=0),
        heads=tuple(watched.means[f"heads {layer}"] for layer in range(layers)),
        ffn=tuple(watched.means[f"ffn {layer}"] for layer in range(layers)),
        pooled=watched.means.get("pooled"),
        norms={name: watched.outputs[name] for name in norms},
    )


class _Watched:
    """A model whose modules are looked at while it runs: means of a measure by key, moments of outputs likewise."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._hooks: list[Any] = []
        self.means: dict[str, Means] = {}
        self.outputs: dict[str, Moments] = {}

    def input(self, key: str, name: str, measure: Measure) -> None:
        """Look at what a module is given."""
        self._hook(name, lambda given, _found: self._take(key, given, measure))

    def output(self, key: str, name: str, measure: Measure) -> None:
        """Look at what a module gives."""

        def see(_given: torch.Tensor, found: torch.Tensor) -> None:
            self._take(key, found, measure)
            self.outputs[key] = moments(found)

        self._hook(name, see)

    def run(self, inputs: Mapping[str, torch.Tensor]) -> None:
        """Run the model, and look no more."""
        try:
            with torch.inference_mode():
                self._model(**inputs)
        finally:
            for hook in self._hooks:
                hook.remove()

    def _hook(self, name: str, see: Callable[[torch.Tensor, torch.Tensor], None]) -> None:
        module = self._model.get_submodule(name)
        self._hooks.append(module.register_forward_hook(lambda _module, given, found: see(given[0], found)))

    def _take(self, key: str, values: torch.Tensor, measure: Measure) -> None:
        self.means[key] = measure(values.flatten(0, -2)).mean(0, dtype=torch.float64).numpy()


def _pooled_at(model: nn.Module, family: EncoderFamily, architecture: str) -> list[tuple[str, bool]]:
    """The module where pooled values pass, and whether they are its output; none where nothing is pooled."""
    for name, axes in family.heads.get(architecture, {}).items():
        if axes == (None, "pooled"):
            return [(name, False)]
    activation = f"{family.before(architecture)}pooler.activation"
    return [(name, True) for name, _ in model.named_modules() if name == activation]


def _lengths(heads: int) -> Measure:
    return lambda rows: rows.unflatten(-1, (heads, -1)).norm(dim=-1)

"""Layer norms over fewer channels: gains and biases that keep each channel's statistics as they were.

A layer norm divides by the deviation of *its* channels, around *their* mean, token by token:

    y_c = g_c z_c + b_c,   z_c = (x_c - μ) / √(σ² + ε),   μ, σ² over all channels of the token

Over the chosen channels C alone, μ and σ are others, and so are the x_c of a model whose layers add up fewer terms:
z'_c takes the place of z_c. Let E and D be the mean and the standard deviation over the tokens of the calibration
inputs. We ask of every chosen channel that it keeps both, E[y'_c] = E[y_c] and D[y'_c] = D[y_c], which two numbers do:

    g'_c = sign(g_c) D[y_c] / D[z'_c]          b'_c = E[y_c] - g'_c E[z'_c]

The norms are fitted in the order in which they run, each on what the fitted ones before it let through. Where z' is z
times a factor plus an offset, the same for all tokens, the output is the source's exactly: so it is when the channels
that go are zero and the others have mean zero, the factor being √(m/n) for m of n channels. In general the two numbers
cannot follow μ and σ from token to token. A channel that never changes keeps its gain, and its bias makes up the mean.

Setting statistics layer by layer is what REPAIR does for models that were averaged (Jordan et al., arXiv 2211.08403);
that weight selection has the same need is our observation, the paper leaves gains and biases as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

_STILL = 1e-6  # of a normalised channel, whose deviation is about 1: rounding and not change


class Moments(NamedTuple):
    """Mean and standard deviation over tokens, of each channel, float64."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def at(self, channels: torch.Tensor) -> Moments:
        """Of some channels."""
        return Moments(self.mean[channels], self.deviation[channels])


def moments(values: torch.Tensor) -> Moments:
    """Of (…, channels), over everything but the channels."""
    rows = values.flatten(0, -2).double()
    return Moments(rows.mean(0), rows.std(0, correction=0))


def fitted(gain: torch.Tensor, wanted: Moments, found: Moments) -> tuple[torch.Tensor, torch.Tensor]:
    """Gain and bias that give normalised channels with moments ``found`` the moments ``wanted``, float64.

    Args:
        gain: before, (channels,); gives the sign, and stays where a channel is still.
        wanted: of the norm's output.
        found: of what is multiplied.
    """
    moves = found.deviation > _STILL
    ratio = wanted.deviation / torch.where(moves, found.deviation, 1.0)
    new = torch.where(moves, torch.sign(gain.double()) * ratio, gain.double())
    return new, wanted.mean - new * found.mean


def fit_norms(model: nn.Module, wanted: Mapping[str, Moments], inputs: Mapping[str, torch.Tensor]) -> None:
    """Set gain and bias of a model's layer norms, in place.

    Args:
        model: the sliced model, float32.
        wanted: module name of each norm → moments of its output.
        inputs: of the model; all at once, since a norm is fitted before anything behind it runs.
    """
    hooks = [model.get_submodule(name).register_forward_hook(_fit(target)) for name, target in wanted.items()]
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()


def _fit(target: Moments) -> Any:
    def hook(module: nn.LayerNorm, inputs: tuple[torch.Tensor, ...], _output: torch.Tensor) -> torch.Tensor:
        plain = functional.layer_norm(inputs[0], module.normalized_shape, eps=module.eps)
        gain, bias = fitted(module.weight, target, moments(plain))
        module.weight.copy_(gain)
        module.bias.copy_(bias)
        return plain * module.weight + module.bias

    return hook

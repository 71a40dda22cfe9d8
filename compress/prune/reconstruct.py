"""Block-wise reconstruction: a feed-forward that has lost neurons is trained to do what the whole one did.

Least squares reach the last of its matrices alone (``repair``). The neurons that stay can be other neurons, too:

    min over all of its matrices of  Σ_t w_t |f°(x_t) - f(x_t)|²  /  Σ_t w_t |f°(x_t)|²

f° is the block as it was and f as it is, activation and all, both on what the smaller model has there: nothing of the
target is beyond what f can tell from x. (What the layers before it lack is; it is what repair solves for, linearly.)
By Adam, with steps that are a share of a matrix's root mean square, so that one rate does for all models but those with
little text, for which a smaller one is tried; the rate rises over the first steps and falls to nothing at the last. Of
the states between two epochs, and the start, the one that loses least on held-out windows is kept, so text that is too
little to learn from leaves the block as it was. w = 1 / mean s², s the stream that f° would leave behind the layer.

Source: Li et al., BRECQ, arXiv 2102.05426, who train roundings so, block by block; here it is the weights themselves.
No layer waits for another's gradients: what is held is one block, its gradients and moments, and its inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgepress.compress.calibrate.bfloat16 import has_native_bfloat16
from edgepress.compress.calibrate.held_out import thin_out

_EPOCHS = 4
_TOKENS_AT_ONCE = 512
_LEAST_AT_ONCE = 64
_STEPS = 24  # at least, of an epoch, where there are tokens enough for it
_RATES = (3e-2, 1e-2)  # of a matrix's root mean square; the second where nothing comes of the first
_BETAS = (0.9, 0.95)
_RISING = 10  # steps
_SEED = 0
_LEAST_LOSS = 1e-6  # below it a block does already what is wanted
_START_TOKENS, _START_TOKENS_PER_NEURON, _START_WINDOWS = 16384, 10, 8  # at least, all three

State = dict[str, torch.Tensor]  # parameters of a block, by name


@dataclass(frozen=True)
class Wanted:
    """Of tokens: ``inputs`` x, (tokens, inputs); ``outputs`` f°(x), (tokens, outputs); ``weights`` w, (tokens, 1)."""

    inputs: torch.Tensor
    outputs: torch.Tensor
    weights: torch.Tensor

    def of(self, tokens: torch.Tensor) -> Wanted:
        """Of some of them, by their places."""
        return Wanted(self.inputs[tokens], self.outputs[tokens], self.weights[tokens])


def windows_to_start(windows: NDArray[np.int32], widest: int) -> NDArray[np.int32]:
    """A part of the calibration text, spread over it, that is enough to choose neurons by and to solve what reads them:
    what is trained from there comes out no worse (docs/LOG.md).

    Args:
        windows: token ids, (samples, length).
        widest: neurons of the widest feed-forward, whose moments have to be well determined.
    """
    tokens = max(_START_TOKENS, _START_TOKENS_PER_NEURON * widest)
    return thin_out(windows, max(_START_WINDOWS, -(-tokens // windows.shape[1])))


def reconstruct(block: nn.Module, names: tuple[str, ...], wanted: Wanted, held_out: torch.Tensor) -> list[torch.Tensor]:
    """The weights that a block does best with, float32, in the order of ``names``.

    Args:
        block: computes outputs from inputs; is left as it is.
        names: of the parameters that are trained.
        wanted: what of it, finite.
        held_out: which tokens judge and are not trained on, (tokens,) of bool.
    """
    own = dict(block.named_parameters())
    start = {name: own[name].detach() for name in names}
    trained, judging = (~held_out).nonzero().flatten(), held_out.nonzero().flatten()
    if len(trained) and loss(block, start, wanted, judging) > _LEAST_LOSS:
        for rate in _RATES:
            if (found := _trained(block, start, wanted, trained, judging, rate)) is not None:
                return list(found.values())
    return [weight.clone() for weight in start.values()]


def _trained(
    block: nn.Module, start: State, wanted: Wanted, trained: torch.Tensor, judging: torch.Tensor, rate: float
) -> State | None:
    """The best state between two epochs, None where that is the start."""
    state = {name: weight.clone().requires_grad_() for name, weight in start.items()}
    least, best = loss(block, start, wanted, judging), None
    generator = torch.Generator().manual_seed(_SEED)
    trainer = _Trainer(block, state, wanted, trained, rate)
    for _ in range(_EPOCHS):
        trainer.epoch(trained[torch.randperm(len(trained), generator=generator)])
        if (found := loss(block, state, wanted, judging)) < least:
            least, best = found, {name: weight.detach().clone() for name, weight in state.items()}
    return best


@torch.no_grad()
def loss(block: nn.Module, state: State, wanted: Wanted, tokens: torch.Tensor) -> float:
    """What a block with some of its parameters replaced loses on some tokens, as a share of what is wanted."""
    lost = sum(float(_lost(block, state, wanted.of(some))) for some in tokens.split(_TOKENS_AT_ONCE))
    return lost / max(energy(wanted, tokens), 1e-300)


def energy(wanted: Wanted, tokens: torch.Tensor) -> float:
    """Σ w |f°(x)|² over tokens."""
    parts = (wanted.of(some) for some in tokens.split(_TOKENS_AT_ONCE))
    return sum(float((part.weights * part.outputs.square()).sum()) for part in parts)


def _lost(block: nn.Module, state: State, part: Wanted) -> torch.Tensor:
    """Σ w |f°(x) - f(x)|² over tokens."""
    with torch.autocast("cpu", torch.bfloat16, enabled=has_native_bfloat16()):
        outputs = torch.func.functional_call(block, state, (part.inputs,))
    lost: torch.Tensor = (part.weights * (part.outputs - outputs.float()).square()).sum()
    return lost


class _Trainer:
    """Adam over a block's parameters."""

    def __init__(self, block: nn.Module, state: State, wanted: Wanted, tokens: torch.Tensor, rate: float) -> None:
        self._block, self._state, self._wanted = block, state, wanted
        self._energy = energy(wanted, tokens) / len(tokens)
        groups = [
            {"params": [weight], "lr": rate * float(weight.detach().square().mean().sqrt())}
            for weight in state.values()
        ]
        self._adam = torch.optim.Adam(groups, betas=_BETAS, fused=True)
        self._at_once = min(_TOKENS_AT_ONCE, max(_LEAST_AT_ONCE, len(tokens) // _STEPS))
        steps = _EPOCHS * -(-len(tokens) // self._at_once)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._adam, lambda step: min(1.0, (step + 1) / _RISING) * max(0.0, 1 - step / steps)
        )

    def epoch(self, tokens: torch.Tensor) -> None:
        """A step for every so many tokens, in this order."""
        for some in tokens.split(self._at_once):
            self._adam.zero_grad()
            value = _lost(self._block, self._state, self._wanted.of(some)) / (len(some) * self._energy)
            value.backward()
            self._adam.step()
            self._schedule.step()

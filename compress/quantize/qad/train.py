"""The training loop of quantization-aware distillation, and the best state that held-out text saw.

Gains: Adam (arXiv 1412.6980). Codes: gradient descent with momentum, each tensor's gradient divided by its root mean
square, in gaps between levels. Adam moves every code alike, whether its gradient is sure or noise, and with a few
hundred thousand tokens that flips more codes for the worse than for the better; here those with the largest gradients
move and most stay. Both with a linear warm-up and a cosine decay.

The held-out divergence, in float32 on the values that would ship, is taken at the start and after each of ``_CHECKS``
parts of the run; what is returned is the best of them, the start included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgepress.artifact.quantized import QuantizedTensor
from edgepress.compress.quantize.qad.model import TrainedModel
from edgepress.progress import progress, say

_CHECKS = 4
_WARM_UP = 0.1
_MOMENTUM = 0.9
_LARGEST = 4.0  # loud inputs make single columns' gradients hundreds of times the others'
_TOKENS_PER_STEP = 2048
Stored = QuantizedTensor | NDArray[np.float32]
State = dict[str, Stored]


def train(
    model: TrainedModel,
    windows: NDArray[np.int32],
    states: torch.Tensor,
    *,
    tokens: int,
    rates: tuple[float, float],
    held_out: Callable[[], float],
    seed: int,
) -> tuple[State, list[tuple[int, float]]]:
    """Train; the best state, and the held-out divergence by tokens seen.

    Args:
        model: what is trained, in place.
        windows: text, int32, (samples, length).
        states: last hidden states of the original model on it, (samples, length, hidden).
        tokens: to train on, in whole batches; windows are taken again in another order when they are used up.
        rates: learning rates of the codes, in gaps, and of the gains.
        held_out: divergence of the model as it is now, on other text.
        seed: of the order.
    """
    each = max(1, min(len(windows), _TOKENS_PER_STEP // windows.shape[1]))
    steps = max(1, tokens // (each * windows.shape[1]))
    optimizers = _optimizers(model, rates)
    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_rate, steps=steps)) for optimizer in optimizers]
    checks = {round(steps * (part + 1) / _CHECKS) for part in range(_CHECKS)}
    curve, best = [(0, held_out())], _state(model)
    with progress("distil through the grid", steps) as advance:
        for step, batch in enumerate(_batches(len(windows), each, steps, seed), start=1):
            model.descend(torch.from_numpy(windows[batch].astype(np.int64)), states[torch.from_numpy(batch)])
            _step(model, optimizers, schedules)
            advance(1)
            if step in checks:
                found = held_out()
                say(f"distilled on {step * each * windows.shape[1]} tokens: divergence {found:.4f} on held-out text")
                best = _state(model) if found < min(reached for _, reached in curve) else best
                curve.append((step * each * windows.shape[1], found))
    return best, curve


def _step(
    model: TrainedModel,
    optimizers: Sequence[torch.optim.Optimizer],
    schedules: Sequence[torch.optim.lr_scheduler.LambdaLR],
) -> None:
    for tensor in model.tensors.values():
        assert tensor.codes.grad is not None
        normalize(tensor.codes.grad)
    for optimizer, schedule in zip(optimizers, schedules, strict=True):
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()


def _optimizers(model: TrainedModel, rates: tuple[float, float]) -> list[torch.optim.Optimizer]:
    of_codes, of_gains = rates
    # Momentum sums gradients; the rate is that of their mean.
    rate = (1 - _MOMENTUM) * of_codes
    groups = [{"params": [tensor.codes], "lr": rate * tensor.gap} for tensor in model.tensors.values()]
    gains: list[nn.Parameter] = list(model.gains.values())
    for tensor in model.tensors.values():
        gains += [tensor.gain] if tensor.offset_gain is None else [tensor.gain, tensor.offset_gain]
    # Gradients are means over thousands of tokens: tiny, and Adam's usual epsilon would rule them.
    adam = torch.optim.Adam(gains, lr=of_gains, betas=(0.9, 0.99), eps=1e-12)
    # A search may have left no matrix with codes.
    return [torch.optim.SGD(groups, momentum=_MOMENTUM), adam] if groups else [adam]


def normalize(gradient: torch.Tensor) -> None:
    """Divide by the root mean square and cut off at ``_LARGEST`` of it, in place; a gradient of zeros stays."""
    size = float(gradient.square().mean().sqrt())
    if size > 0:
        gradient.div_(size).clamp_(-_LARGEST, _LARGEST)


def _rate(step: int, steps: int) -> float:
    warm = max(1, round(_WARM_UP * steps))
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _batches(count: int, each: int, steps: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """``steps`` batches of windows; each window once before any comes again."""
    rng, order = np.random.default_rng(seed), np.empty(0, np.intp)
    for _ in range(steps):
        if len(order) < each:
            order = np.concatenate([order, rng.permutation(count)])
        yield order[:each]
        order = order[each:]


def _state(model: TrainedModel) -> State:
    matrices: State = {name: tensor.finish() for name, tensor in model.tensors.items()}
    return matrices | {name: model.values(name) for name in model.gains}

"""What an error in a matrix's output costs the model: a diagonal Fisher estimate from one backward pass.

With labels sampled from the model itself, the divergence that a change ΔW causes is to second order

    KL ≈ ½ E_t (g_tᵀ ΔW x_t)²              g_t: gradient of -log p(label) with respect to the matrix's output at token t

Rounding errors of different rows are independent, and the error of row o grows with the energy of the input and with
the row's own output: (ΔW x_t)_o² ≈ e · σ_o² · ‖x_t‖²/d, with σ_o² = E y_to² / (‖x_t‖²/d) and e the relative error of
``errors``. So KL ≈ c e with

    c = ½ Σ_o E_t[g_to² ‖x_t‖²/d] · σ_o²

What that leaves out (correlations between rows and between tokens) is made up for by a factor per role, measured with
the true divergence. Source: the score of modelopt's auto_quantize and GuidedQuant (arXiv 2505.07004) are of this kind.

The inputs of all layers lie in files during the pass, so memory does not grow with depth.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgepress.artifact.families import EMBEDDING, HEAD, layer_name, linears_of
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.skeleton import Skeleton
from edgepress.progress import progress

_TOKENS_AT_ONCE = 128  # of which all logits are held


def fisher_costs(source: WeightSource, windows: NDArray[np.int32], seed: int) -> dict[str, float]:
    """c of every linear of the layers, by its weight's Hugging Face name.

    Args:
        source: the original model.
        windows: int32, (samples, length); a few thousand tokens are enough.
        seed: of the sampled labels.
    """
    skeleton = Skeleton(source, windows)
    depth = len(skeleton.layers)
    with tempfile.TemporaryDirectory(prefix="edgepress-fisher-") as folder, progress("Fisher", 2 * depth) as advance:
        states = [Path(folder) / f"{index}.npy" for index in range(depth)]
        gradient = _head_gradient(skeleton, _forward(skeleton, states, advance), seed)
        costs: dict[str, float] = {}
        for index in reversed(range(depth)):
            costs |= _backward(skeleton, index, torch.from_numpy(np.load(states[index])), gradient)
            advance(1)
    return costs


@torch.no_grad()
def _forward(skeleton: Skeleton, states: list[Path], advance: Callable[[int], None]) -> torch.Tensor:
    """Write the inputs of each layer to its file; return the outputs of the last."""
    hidden = skeleton.embed()
    for index, path in enumerate(states):
        np.save(path, hidden.numpy())
        layer = skeleton.fill(index, skeleton.read_layer(index))
        for batch in skeleton.batches:
            hidden[batch] = skeleton.run(layer, index, hidden[batch])
        skeleton.release(index)
        advance(1)
    return hidden


def _head_gradient(skeleton: Skeleton, hidden: torch.Tensor, seed: int) -> torch.Tensor:
    """Gradient of Σ -log p(label) with respect to the last hidden states, labels sampled from p."""
    source = skeleton.source
    head = torch.from_numpy(source.read(HEAD if HEAD in source.names else EMBEDDING))
    norm, generator = skeleton.final_norm(), torch.Generator().manual_seed(seed)
    gradient = torch.empty(hidden.shape)
    for batch in skeleton.batches:
        inputs = hidden[batch].clone().requires_grad_(True)
        outputs: torch.Tensor = norm(inputs)
        flat = outputs.detach().flatten(0, 1)
        pulls = [_logit_gradient(part, head, generator) for part in flat.split(_TOKENS_AT_ONCE)]
        outputs.backward(torch.cat(pulls).view_as(outputs))
        assert inputs.grad is not None
        gradient[batch] = inputs.grad
    return gradient


@torch.no_grad()
def _logit_gradient(hidden: torch.Tensor, head: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    probabilities = torch.softmax(hidden @ head.T, -1)
    labels = torch.multinomial(probabilities, 1, generator=generator)
    probabilities.scatter_add_(1, labels, torch.full_like(labels, -1, dtype=probabilities.dtype))
    return probabilities @ head


def _backward(skeleton: Skeleton, index: int, states: torch.Tensor, gradient: torch.Tensor) -> dict[str, float]:
    """Costs of a layer's linears; ``gradient`` becomes that of the layer's inputs."""
    layer, shape = skeleton.fill(index, skeleton.read_layer(index)), skeleton.source.spec.layers[index]
    meters = {layer_name(index, part): _Meter(layer.get_submodule(part)) for part in linears_of(shape).values()}
    for batch in skeleton.batches:
        inputs = states[batch].clone().requires_grad_(True)
        output = skeleton.run(layer, index, inputs)
        output.backward(gradient[batch])
        for meter in meters.values():
            meter.read()
        assert inputs.grad is not None
        gradient[batch] = inputs.grad
    skeleton.release(index)
    return {name: meter.finish() for name, meter in meters.items()}


class _Meter:
    """Sums, per output feature of a linear, what c is made of."""

    def __init__(self, module: nn.Module) -> None:
        self._handle = module.register_forward_hook(self._keep)
        self._pulls: torch.Tensor | float = 0.0
        self._outputs: torch.Tensor | float = 0.0
        self._tokens = 0

    def _keep(self, _module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        output.retain_grad()
        self._last = (inputs[0].detach().square().mean(-1).flatten(), output)

    def read(self) -> None:
        """Take in the last batch, after its backward pass."""
        energy, output = self._last
        assert output.grad is not None
        pull, value = output.grad.flatten(0, -2).double(), output.detach().flatten(0, -2).double()
        safe = energy.double().clamp(min=1e-30)[:, None]
        self._pulls = self._pulls + (pull.square() * safe).sum(0)
        self._outputs = self._outputs + (value.square() / safe).sum(0)
        self._tokens += len(pull)

    def finish(self) -> float:
        """c of the linear."""
        self._handle.remove()
        return float((self._pulls * self._outputs).sum()) / 2 / self._tokens**2  # type: ignore[union-attr]

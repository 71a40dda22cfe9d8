"""The compressed model with everything that is trained as parameters.

Trained: codes and scales of the layers' matrices, and by a gain per value what ships in float32 beside them (norms,
biases). The embedding and the head stay as they are. A step runs transformers' own layers on the values that would
ship: their gradients are gathered first and carried through the rounding tensor by tensor, so that no second copy of
them is alive at a time.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.func import functional_call

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import EMBEDDING, HEAD
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.bfloat16 import has_native_bfloat16
from edgepress.compress.quantize.qad.loss import divergence_and_gradient
from edgepress.compress.quantize.qad.trainable import TrainableTensor
from edgepress.runtime.torch_reference import build_skeleton, load_parameter

_TOKENS_AT_ONCE = 1024
_INNER = "model."
Weights = dict[str, torch.Tensor]


class TrainedModel:
    """A solved checkpoint whose layers can be trained towards the original model."""

    def __init__(self, original: WeightSource, solved: Checkpoint) -> None:
        self._original, self._solved = original, solved
        self.tensors: dict[str, TrainableTensor] = {}
        self.gains: dict[str, nn.Parameter] = {}
        self._floats: Weights = {}
        for name in solved.names:
            self._admit(name)
        model = build_skeleton(solved)
        load_parameter(model, EMBEDDING, solved.read(EMBEDDING))
        self._inner: nn.Module = model.model
        self._heads = tuple(torch.from_numpy(source.read(_head(source))) for source in (solved, original))

    def _admit(self, name: str) -> None:
        if name in (EMBEDDING, HEAD):
            return
        start = self._solved.quantized(name)
        if start is not None:
            self.tensors[name] = TrainableTensor(start, self._original.read(name))
            return
        self._floats[name] = torch.from_numpy(self._solved.read(name))
        if self._solved.format(name) == "f32":
            self.gains[name] = nn.Parameter(torch.ones_like(self._floats[name]))

    def descend(self, windows: torch.Tensor, states: torch.Tensor) -> float:
        """Gather the gradients of one batch in all parameters.

        Args:
            windows: token ids, int64, (samples, length).
            states: last hidden states of the original model, (samples, length, hidden).

        Returns:
            Mean KL divergence in nats per token, in the precision of training.
        """
        weights = {name: value.detach().requires_grad_(True) for name, value in self._weights().items()}
        each = max(1, _TOKENS_AT_ONCE // windows.shape[1])
        total = 0.0
        for part, wanted in zip(windows.split(each), states.split(each), strict=True):
            share = len(part) / len(windows)
            total += share * self._backward(weights, part, wanted.flatten(0, 1), share)
        self._carry_back(weights)
        return total

    @torch.no_grad()
    def values(self, name: str) -> NDArray[np.float32]:
        """What a tensor would ship as now."""
        if name in self.tensors:
            return self.tensors[name].finish().dequantize()
        if name in self._floats:
            found: NDArray[np.float32] = self._float(name).numpy()
            return found
        return self._solved.read(name)

    def _weights(self) -> Weights:
        with torch.no_grad():
            matrices = {name: tensor.values() for name, tensor in self.tensors.items()}
            return matrices | {name: self._float(name) for name in self._floats}

    def _float(self, name: str) -> torch.Tensor:
        return self._floats[name] * self.gains[name] if name in self.gains else self._floats[name]

    def _backward(self, weights: Weights, windows: torch.Tensor, wanted: torch.Tensor, share: float) -> float:
        named = {name.removeprefix(_INNER): value for name, value in weights.items()}
        with _precision():
            output = functional_call(self._inner, named, kwargs={"input_ids": windows, "use_cache": False})
        hidden = output.last_hidden_state.float().flatten(0, 1)
        head, original_head = self._heads
        divergence, gradient = divergence_and_gradient(hidden.detach(), head, wanted, original_head)
        hidden.backward(gradient * share)
        return divergence

    def _carry_back(self, weights: Weights) -> None:
        for name in list(weights):
            gradient = weights.pop(name).grad
            if gradient is None:
                continue
            if name in self.tensors:
                self.tensors[name].values().backward(gradient)
            elif name in self.gains:
                self.gains[name].grad = gradient * self._floats[name]


def _precision() -> AbstractContextManager[None]:
    """Products in bfloat16 where the processor has them, everything else in float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=has_native_bfloat16())


def _head(source: WeightSource) -> str:
    return HEAD if HEAD in source.names else EMBEDDING

"""What is trained: parameters by name, AdamW over them, and both as the arrays of a saved state.

AdamW (arXiv 1711.05101); gradients are clipped to norm 1, gains and biases do not decay.
"""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from edgepress.compress.distill.config import Training
from edgepress.compress.distill.trainer_state import Tensors

_BETAS = (0.9, 0.95)
_LARGEST_NORM = 1.0
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Trainable:
    """Those parameters of some modules that want a gradient, and their optimizer."""

    def __init__(self, modules: dict[str, nn.Module], training: Training) -> None:
        """Take modules, which stay where they are.

        Args:
            modules: by what goes before the names of their parameters.
            training: gives the rate and the decay.
        """
        self._parameters = {
            f"{prefix}{name}": value
            for prefix, module in modules.items()
            for name, value in module.named_parameters()
            if value.requires_grad
        }
        self._optimizer = self._adamw(training)

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """All of them."""
        return tuple(self._parameters.values())

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Parameters, and their moments where there are any."""
        moments = [self._optimizer.state[value][moment] for value in self._optimizer.state for moment in _MOMENTS]
        return (*self.parameters, *moments)

    def step(self, rate: float) -> None:
        """One step of the optimizer at a rate, by the gradients that are there; they go."""
        torch.nn.utils.clip_grad_norm_(self.parameters, _LARGEST_NORM)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def values(self) -> Tensors:
        """The parameters as they are."""
        return {name: _numpy(value) for name, value in self._parameters.items()}

    def state(self) -> Tensors:
        """The parameters and both moments of each."""
        found = self.values()
        for name, value in self._parameters.items():
            found |= {f"{name}|{moment}": _numpy(self._optimizer.state[value][moment]) for moment in _MOMENTS}
        return found

    @torch.no_grad()
    def restore(self, values: Tensors) -> None:
        """Take values of the parameters."""
        for name, value in self._parameters.items():
            value.copy_(torch.from_numpy(values[name]))

    def resume(self, steps: int, state: Tensors | None) -> None:
        """Take a state after some steps; None makes room for one that another process has."""
        if state is not None:
            self.restore(state)
        for name, value in self._parameters.items():
            moments: dict[str, Any] = {
                moment: torch.zeros_like(value) if state is None else _like(state[f"{name}|{moment}"], value)
                for moment in _MOMENTS
            }
            step = torch.tensor(float(steps), device=value.device)
            self._optimizer.state[value] = moments | {"step": step}

    def _adamw(self, training: Training) -> torch.optim.AdamW:
        matrices = [value for value in self.parameters if value.dim() > 1]
        vectors = [value for value in self.parameters if value.dim() == 1]
        groups = [
            {"params": matrices, "weight_decay": training.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=training.rate, betas=_BETAS, fused=True)


def _like(array: NDArray[Any], value: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(array).to(value.device)


def _numpy(value: torch.Tensor) -> NDArray[Any]:
    array: NDArray[Any] = value.detach().cpu().numpy()
    return array

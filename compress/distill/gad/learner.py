"""A model in training: its parameters, AdamW, and all that a killed run needs to go on with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edgepress.compress.distill.trainer_state import Tensors

_BETAS = (0.9, 0.95)
_LARGEST_NORM = 1.0
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Learner:
    """One model with an optimizer of its own: AdamW (arXiv 1711.05101), gradients clipped to norm 1."""

    def __init__(self, model: nn.Module, rate: float) -> None:
        """Take a model; its parameters are trained in place.

        Args:
            model: whose parameters to train, all of them.
            rate: learning rate, the same for all steps.
        """
        self.parameters = dict(model.requires_grad_(True).named_parameters())
        self.steps = 0
        self._optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=rate, betas=_BETAS, weight_decay=0.0, fused=True
        )

    def step(self) -> None:
        """Follow the gradients that were gathered, and forget them."""
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), _LARGEST_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.steps += 1

    def weights(self) -> Tensors:
        """The parameters by name, not copied."""
        return {name: value.detach().numpy() for name, value in self.parameters.items()}

    def tensors(self) -> Tensors:
        """Parameters, moments and the number of steps."""
        found = self.weights() | {"steps": torch.tensor([float(self.steps)]).numpy()}
        if self.steps:
            for name, value in self.parameters.items():
                found |= {f"{name}|{moment}": self._optimizer.state[value][moment].numpy() for moment in _MOMENTS}
        return found

    @torch.no_grad()
    def restore(self, tensors: Tensors) -> None:
        """Take what :meth:`tensors` gave, or weights alone."""
        for name, value in self.parameters.items():
            value.copy_(torch.from_numpy(tensors[name]))
        self.steps = int(tensors["steps"][0]) if "steps" in tensors else 0
        if self.steps:
            for name, value in self.parameters.items():
                moments: dict[str, Any] = {moment: torch.from_numpy(tensors[f"{name}|{moment}"]) for moment in _MOMENTS}
                self._optimizer.state[value] = moments | {"step": torch.tensor(float(self.steps))}

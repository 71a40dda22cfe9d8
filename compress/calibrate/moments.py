"""Second moments of a layer's inputs, with every token counting alike.

    H = E w x xᵀ        D = E w (x° - x) xᵀ        w = 1 / mean_j x_j²

x is the input as the layer will see it and x° what the original model had there. Without w, a few tokens own the sum:
the first token of a text (the attention sink) enters some layers with a thousand times the energy of any other, or with
a thousandth, and a solver that follows H then destroys whichever is rare, and with it the model.
"""

from __future__ import annotations

import msgspec
import torch

from edgepress.compress.calibrate.one_dnn import linear


class InputStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Second moments, float64, (columns, columns).

    hessian   H
    drift     D; None where the inputs are the original ones
    """

    hessian: torch.Tensor
    drift: torch.Tensor | None = None


class Moments:
    """Sums up batches of inputs."""

    def __init__(self) -> None:
        self._hessian: torch.Tensor | None = None
        self._drift: torch.Tensor | None = None
        self._tokens = 0

    def add(self, inputs: torch.Tensor, original: torch.Tensor | None) -> None:
        """Add a batch, (…, columns) each; ``original`` is None when there is nothing to compare with."""
        x = inputs.reshape(-1, inputs.shape[-1])
        energy = x.square().mean(1, keepdim=True)
        root = torch.where(energy > 0, energy.rsqrt(), torch.zeros_like(energy))
        weighted = (x * root).T  # by the root, so that H is symmetric however its factors are rounded
        self._hessian = _sum(self._hessian, linear(weighted, weighted))
        if original is not None:
            self._drift = _sum(self._drift, linear(((original.reshape(x.shape) - x) * root).T, weighted))
        self._tokens += len(x)

    def finish(self) -> InputStatistics:
        """The means."""
        assert self._hessian is not None, "no batch was added"
        drift = None if self._drift is None else self._drift / self._tokens
        return InputStatistics(hessian=self._hessian / self._tokens, drift=drift)


def _sum(total: torch.Tensor | None, term: torch.Tensor) -> torch.Tensor:
    return term.double() if total is None else total.add_(term)

"""A loss on logits, from hidden states, without the logits of all tokens.

    L = Σ_t w_t ℓ(B h_t)        ∂L/∂h_t = w_t Bᵀ ∂ℓ/∂z_t        ∂L/∂B = Σ_t w_t ∂ℓ/∂z_t h_tᵀ

The logits of a token are 200 kB for a vocabulary of 49152. They are computed for a few tokens at a time, and the
gradients with respect to h and B at once with them, so that nothing of that size waits for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_TOKENS_AT_ONCE = 256
LossOfLogits = Callable[[torch.Tensor, slice], torch.Tensor]


def mean_loss(hidden: torch.Tensor, head: torch.Tensor, loss: LossOfLogits) -> torch.Tensor:
    """The mean loss over tokens, a scalar that is differentiable in ``hidden`` and ``head``.

    Args:
        hidden: outputs of the final norm, (tokens, hidden), at least one token.
        head: (vocabulary, hidden).
        loss: (logits of some tokens, float32 or float64, which tokens) → loss of each, (those tokens,).
    """
    mean: torch.Tensor = _MeanLoss.apply(hidden, head, loss)
    return mean


class _MeanLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.Tensor, loss: LossOfLogits) -> torch.Tensor:
        of_hidden, of_head = torch.empty_like(hidden), torch.zeros_like(head)
        total = torch.zeros((), dtype=torch.float64)
        for start in range(0, len(hidden), _TOKENS_AT_ONCE):
            rows = slice(start, min(start + _TOKENS_AT_ONCE, len(hidden)))
            value, gradient = _with_gradient(hidden[rows] @ head.T, loss, rows)
            total += value
            of_hidden[rows] = gradient @ head
            of_head += gradient.T @ hidden[rows]
        ctx.save_for_backward(of_hidden.div_(len(hidden)), of_head.div_(len(hidden)))
        return (total / len(hidden)).to(hidden.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        of_hidden, of_head = ctx.saved_tensors
        return of_hidden * gradients[0], of_head * gradients[0], None


def _with_gradient(logits: torch.Tensor, loss: LossOfLogits, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of the tokens' losses, float64, and its gradient with respect to the logits."""
    leaf = (logits if logits.dtype == torch.float64 else logits.float()).requires_grad_(True)
    with torch.enable_grad():
        total = loss(leaf, rows).sum(dtype=torch.float64)
    return total.detach(), torch.autograd.grad(total, leaf)[0]

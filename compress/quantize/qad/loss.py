"""KL divergence between two models from their last hidden states, and its gradient there.

    L = 1/T Σ_t KL(p_t ‖ q_t)        p = softmax(A h°), q = softmax(B h)
    ∂L/∂h_t = 1/T Bᵀ (q_t - p_t)

A, B: heads of the original and the compressed model. The logits of all tokens, 200 kB each for a vocabulary of 49152,
are never held together.
"""

from __future__ import annotations

import torch

_TOKENS_AT_ONCE = 256


@torch.no_grad()
def divergence_and_gradient(
    hidden: torch.Tensor, head: torch.Tensor, original_hidden: torch.Tensor, original_head: torch.Tensor
) -> tuple[float, torch.Tensor]:
    """Mean KL divergence in nats per token, and its gradient with respect to ``hidden``.

    Args:
        hidden: outputs of the final norm of the compressed model, (tokens, hidden).
        head: (vocabulary, hidden).
        original_hidden: of the original model, like hidden.
        original_head: like head.
    """
    total, gradient = 0.0, torch.empty_like(hidden)
    for start in range(0, len(hidden), _TOKENS_AT_ONCE):
        rows = slice(start, start + _TOKENS_AT_ONCE)
        wanted = torch.log_softmax(original_hidden[rows] @ original_head.T, -1)
        reached = torch.log_softmax(hidden[rows] @ head.T, -1)
        probabilities = wanted.exp()
        total += float((probabilities * (wanted - reached)).sum(dtype=torch.float64))
        gradient[rows] = (reached.exp_() - probabilities) @ head
    return total / len(hidden), gradient / len(hidden)

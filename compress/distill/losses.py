"""How far a student's next-token distribution is from the teacher's, token by token.

    p = softmax(z_teacher / T)    q = softmax(z_student / T)
    KL           T² Σ p (log p - log q)
    reverse KL   T² Σ q (log q - log p)
    JSD(β)       T² (β KL(p ‖ m) + (1 - β) KL(q ‖ m))     m = β p + (1 - β) q

T² keeps the gradient's size from falling with the temperature (Hinton et al., arXiv 1503.02531). The generalised
Jensen-Shannon divergence is GKD's (arXiv 2306.13649). From a cache of the teacher: :mod:`~.sparse_kl`.

All take logits of shape (tokens, vocabulary), the student's float and differentiable, and give nats per token,
(tokens,).
"""

from __future__ import annotations

import torch
from torch.nn import functional


def kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """KL divergence of the student from the teacher, (tokens,)."""
    p, q = _log_softmax(teacher, temperature), _log_softmax(student, temperature)
    return temperature**2 * (p.exp() * (p - q)).sum(-1)


def reverse_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """KL divergence of the teacher from the student, (tokens,): punishes what the teacher would never say."""
    return kl(teacher, student, temperature)


def jsd(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0, beta: float = 0.5) -> torch.Tensor:
    """Generalised Jensen-Shannon divergence, (tokens,).

    Args:
        student, teacher: logits, (tokens, vocabulary).
        temperature: T.
        beta: share of the teacher in the mixture, between 0 and 1, both excluded.
    """
    p, q = _log_softmax(teacher, temperature), _log_softmax(student, temperature)
    weight = torch.tensor(beta, dtype=p.dtype, device=p.device)
    mixture = torch.logaddexp(p + weight.log(), q + torch.log1p(-weight))
    of_teacher, of_student = (p.exp() * (p - mixture)).sum(-1), (q.exp() * (q - mixture)).sum(-1)
    return temperature**2 * (beta * of_teacher + (1 - beta) * of_student)


def hard_label_cross_entropy(student: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy with the tokens of the text, int64, (tokens,)."""
    return functional.cross_entropy(student, labels, reduction="none")


def _log_softmax(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return torch.log_softmax(logits / temperature, -1)

"""KL divergence over the teacher's k likeliest tokens and one bucket for all others, and its gradient in one pass.

    z = z_student / T    q = softmax(z)    S = tokens outside of the top k    q_S = Σ_{j ∈ S} q_j

    L        = T² [Σ_{i ∈ top k} p_i (log p_i - log q_i) + p_S (log p_S - log q_S)]
    ∂L/∂z_i  = T (q_i - p_i)                in the top k          (z is the student's logit here, undivided)
    ∂L/∂z_j  = T q_j (1 - p_S / q_S)        in S

It is the divergence of distributions over k + 1 outcomes, the last being "any other token": a top k renormalised to 1
would teach the student to be too sure. A vocabulary of logits is much memory to walk through, and automatic
differentiation of the above walks through it some fifteen times; with the gradient written down it is five. The
rest's sum is taken of the rest alone and with its own maximum: as 1 - Σ q it would be lost where the top k have it all.
"""

from __future__ import annotations

from typing import Any

import torch


def sparse_kl(
    student: torch.Tensor, ids: torch.Tensor, log_probs: torch.Tensor, log_tail: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """The divergence of each token in nats, (tokens,), differentiable once in ``student``.

    Args:
        student: logits, (tokens, vocabulary).
        ids: the teacher's likeliest tokens, int64, (tokens, k).
        log_probs: their log-probabilities at ``temperature``, (tokens, k).
        log_tail: log of the rest's probability at ``temperature``, (tokens,); minus infinity where there is no rest.
        temperature: T.
    """
    divergence: torch.Tensor = _SparseKl.apply(student, ids, log_probs, log_tail, temperature)
    return divergence


class _SparseKl(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student: torch.Tensor,
        ids: torch.Tensor,
        log_probs: torch.Tensor,
        log_tail: torch.Tensor,
        temperature: float,
    ) -> torch.Tensor:
        top = student.gather(-1, ids) / temperature
        powers, log_scale, log_rest = _rest(student, ids, temperature)
        log_sum = torch.logaddexp(top.logsumexp(-1), log_rest)
        # p log p is 0 where p is, and 0 · ∞ is not.
        p, p_rest = log_probs.exp(), log_tail.exp()
        within = torch.where(p > 0, p * (log_probs - top + log_sum[:, None]), 0.0).sum(-1)
        outside = torch.where(p_rest > 0, p_rest * (log_tail - log_rest + log_sum), 0.0)
        if ctx.needs_input_grad[0]:
            # q_j and q_j p_S / q_S have the power in common, so that the smallest q_S divides nothing.
            factor = (log_scale - log_sum).exp() - torch.where(p_rest > 0, p_rest * (log_scale - log_rest).exp(), 0.0)
            of_top = (top - log_sum[:, None]).exp() - p
            gradient = powers.mul_(factor[:, None]).scatter_(-1, ids, of_top.to(powers.dtype))
            ctx.save_for_backward(gradient)
            ctx.temperature = temperature
        return temperature**2 * (within + outside)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * (ctx.temperature * gradients[0][:, None]).to(gradient.dtype), None, None, None, None


def _rest(student: torch.Tensor, ids: torch.Tensor, temperature: float) -> tuple[torch.Tensor, ...]:
    """exp(z - m) outside of the top k and 0 in it, (tokens, vocabulary); m, the largest there; log Σ exp z there."""
    outside = (student / temperature).scatter_(-1, ids, float("-inf"))
    largest = outside.amax(-1).clamp_(min=torch.finfo(student.dtype).min)  # finite where there is no rest
    powers = outside.sub_(largest[:, None]).exp_()
    return powers, largest, largest + powers.sum(-1).log()

"""What the discriminator minimises, what the student is rewarded with, and what it minimises.

    Bradley-Terry   L_D = mean over pairs of -log σ(D(x, y_teacher) - D(x, y_i))
    advantage       A_i = (r_i - mean r) / (std r + ε)               over the answers to one prompt (GRPO)
    policy          L_t = -min(ρ_t A, clip(ρ_t, 1 - c, 1 + c) A)     ρ_t = π(y_t | x, y_<t) / π_old(y_t | x, y_<t)

For answers drawn from p (teacher) and q (student) the best D is log p - log q and a constant, and the best loss log 2
where p = q. With that D the policy's gradient is that of -KL(q ‖ p): GAD estimates reverse KL from samples alone.

Sources: arXiv 2511.10643; GRPO, arXiv 2402.03300; clipping, arXiv 1707.06347. The loss of G is the mean over all tokens
of a step, not of means over answers, which would pay for length (arXiv 2503.20783).
"""

from __future__ import annotations

import torch
from torch.nn import functional

_SMALLEST_SPREAD = 1e-4


def bradley_terry_loss(teacher_scores: torch.Tensor, student_scores: torch.Tensor) -> torch.Tensor:
    """Mean of -log σ(teacher - student) over all pairs, nats, a scalar.

    Args:
        teacher_scores: of one answer to each prompt, (prompts,).
        student_scores: of several, (prompts, samples).
    """
    return functional.softplus(student_scores - teacher_scores[:, None]).mean()


def whitened(rewards: torch.Tensor) -> torch.Tensor:
    """Rewards of a step with mean 0 and standard deviation 1, (prompts, samples): a unit for penalties."""
    return (rewards - rewards.mean()) / (rewards.std(correction=0) + _SMALLEST_SPREAD)


def group_advantages(rewards: torch.Tensor) -> torch.Tensor:
    """How much better an answer is than the others to its prompt, (prompts, samples); 0 where all are alike."""
    centred = rewards - rewards.mean(1, keepdim=True)
    return centred / (rewards.std(1, correction=0, keepdim=True) + _SMALLEST_SPREAD)


def clipped_policy_loss(
    log_probs: torch.Tensor, old_log_probs: torch.Tensor, advantages: torch.Tensor, clip: float
) -> torch.Tensor:
    """The loss of each token, (tokens,).

    Args:
        log_probs: of the tokens that were written, differentiable, (tokens,).
        old_log_probs: of the same, under the student that wrote them, (tokens,).
        advantages: of their answers, (tokens,).
        clip: c.
    """
    ratios = (log_probs - old_log_probs).exp()
    return -torch.minimum(ratios * advantages, ratios.clamp(1 - clip, 1 + clip) * advantages)

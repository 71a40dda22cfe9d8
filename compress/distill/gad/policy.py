"""A step of the student on answers that it wrote: policy gradient, and not too far from where it was.

    L = mean over the tokens of all answers of  L_t + w_kl · KL(π(· | x, y_<t) ‖ π_0(· | x, y_<t))

L_t is that of :func:`~edgepress.compress.distill.gad.losses.clipped_policy_loss`, π_0 the warmed-up student. The
divergence is exact, over the whole vocabulary, where GRPO estimates it from the one token that was written; its
gradient is that of reverse KL at the states visited, without that of visiting them.
"""

from __future__ import annotations

from typing import Any

import torch

from edgepress.compress.distill.gad.answers import Block
from edgepress.compress.distill.gad.learner import Learner
from edgepress.compress.distill.gad.losses import clipped_policy_loss
from edgepress.compress.distill.losses import reverse_kl
from edgepress.compress.distill.through_head import mean_loss


def policy_step(
    student: Any,
    reference: Any,
    learner: Learner,
    texts: Block,
    advantages: torch.Tensor,
    *,
    old_log_probs: torch.Tensor | None,
    clip: float,
    kl: float,
    piece_tokens: int,
) -> float:
    """One step; the divergence from the reference before it, nats per token.

    Args:
        student, reference: transformers' causal language models, of which the first is trained.
        learner: the student's optimizer.
        texts: answers that the student wrote.
        advantages: of each, (texts,).
        old_log_probs: of all answers' tokens in order when they were written, (tokens,); None: as they are now.
        clip: see :mod:`~edgepress.compress.distill.gad.losses`.
        kl: weight of the divergence.
        piece_tokens: that gradients are taken of at a time.
    """
    total, start, divergence = int(texts.answered.sum()), 0, 0.0
    for rows, piece in texts.pieces(piece_tokens):
        count = int(piece.answered.sum())
        old = None if old_log_probs is None else old_log_probs[start : start + count]
        loss = _Loss(piece, advantages[rows], old, reference, clip, kl)
        mean = mean_loss(_states(student, piece), student.lm_head.weight, loss)
        torch.autograd.backward(mean * (count / total))
        start, divergence = start + count, divergence + loss.divergence
    learner.step()
    return divergence / total


@torch.no_grad()
def log_probs_of(student: Any, texts: Block, piece_tokens: int) -> torch.Tensor:
    """Log-probabilities of all answers' tokens in order, (tokens,), at temperature 1."""
    found = []
    for _, piece in texts.pieces(piece_tokens):
        logits = _states(student, piece) @ student.lm_head.weight.T
        found.append(_taken(logits.float(), piece.tokens[:, 1:][piece.answered]))
    return torch.cat(found)


class _Loss:
    """The loss of a piece's tokens from their logits; ``divergence`` adds up."""

    def __init__(
        self,
        piece: Block,
        advantages: torch.Tensor,
        old_log_probs: torch.Tensor | None,
        reference: Any,
        clip: float,
        kl: float,
    ) -> None:
        self._labels, self._old = piece.tokens[:, 1:][piece.answered], old_log_probs
        self._advantages = advantages[:, None].expand(piece.answered.shape)[piece.answered]
        self._clip, self._kl, self.divergence = clip, kl, 0.0
        with torch.no_grad():
            self._states, self._head = _states(reference, piece), reference.lm_head.weight

    def __call__(self, logits: torch.Tensor, rows: slice) -> torch.Tensor:
        log_probs = _taken(logits, self._labels[rows])
        old = log_probs.detach() if self._old is None else self._old[rows]
        with torch.no_grad():
            before = self._states[rows] @ self._head.T
        away = reverse_kl(logits, before)
        self.divergence += float(away.detach().sum(dtype=torch.float64))
        return clipped_policy_loss(log_probs, old, self._advantages[rows], self._clip) + self._kl * away


def _states(model: Any, piece: Block) -> torch.Tensor:
    """States that the answers' tokens are predicted from, (tokens, hidden)."""
    states: torch.Tensor = model.model(piece.tokens, use_cache=False).last_hidden_state.float()[:, :-1][piece.answered]
    return states


def _taken(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(logits, -1).gather(-1, labels[:, None])[:, 0]

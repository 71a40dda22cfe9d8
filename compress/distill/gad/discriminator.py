"""The discriminator: how much an answer looks like the teacher's, as one number.

    D(x, y) = w · h_last        h the states of a copy of the student behind its last norm, w = 0 at the start

h_last is the state of the answer's last token. No bias: only differences between answers to one prompt count. The head
starts at zero, so that a new discriminator is indifferent and needs no seed.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from edgepress.compress.distill.gad.answers import Block
from edgepress.compress.distill.gad.learner import Learner
from edgepress.compress.distill.gad.losses import bradley_terry_loss


class Discriminator(nn.Module):
    """A copy of a student's layers with one number for a head."""

    def __init__(self, student: Any) -> None:
        """Copy a student.

        Args:
            student: transformers' causal language model.
        """
        super().__init__()
        self.body = copy.deepcopy(student.model).eval()
        self.head = nn.Parameter(torch.zeros(student.config.hidden_size))

    def forward(self, texts: Block) -> torch.Tensor:
        """A score for each text, (texts,)."""
        states = self.body(texts.tokens, use_cache=False).last_hidden_state
        scores: torch.Tensor = states[torch.arange(len(states)), texts.last].float() @ self.head
        return scores

    @torch.no_grad()
    def scores(self, texts: Block, piece_tokens: int) -> torch.Tensor:
        """The same without gradients, in pieces."""
        return torch.cat([self(piece) for _, piece in texts.pieces(piece_tokens)])


def discriminator_step(
    discriminator: Discriminator, learner: Learner, teachers: Block, students: Block, piece_tokens: int
) -> float:
    """One step on some prompts; the loss before it, nats per pair.

    The gradient of the loss with respect to the scores is taken first, and then that of the scores piece by piece, so
    that pieces may part the answers to one prompt.

    Args:
        discriminator: D.
        learner: its optimizer.
        teachers: an answer to each prompt.
        students: as many to each, those to one prompt in a row.
        piece_tokens: that gradients are taken of at a time.
    """
    count = len(teachers.tokens)
    found = [discriminator.scores(texts, piece_tokens).requires_grad_(True) for texts in (teachers, students)]
    loss = bradley_terry_loss(found[0], found[1].reshape(count, -1))
    for texts, wanted in zip((teachers, students), torch.autograd.grad(loss, found), strict=True):
        for rows, piece in texts.pieces(piece_tokens):
            torch.autograd.backward(discriminator(piece) @ wanted[rows])
    learner.step()
    return float(loss.detach())

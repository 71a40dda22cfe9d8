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

    Args:
        discriminator: D.
        learner: its optimizer.
        teachers: an answer to each prompt.
        students: as many to each, those to one prompt in a row.
        piece_tokens: that gradients are taken of at a time, if those are not fewer than the answers to one prompt have.
    """
    count, total = len(teachers.tokens), 0.0
    samples = len(students.tokens) // count
    each = max(1, piece_tokens // (samples * students.tokens.shape[1]))
    for start in range(0, count, each):
        ours = students[start * samples : (start + each) * samples]
        scores = discriminator(teachers[start : start + each])
        loss = bradley_terry_loss(scores, discriminator(ours).reshape(-1, samples)) * (len(scores) / count)
        torch.autograd.backward(loss)
        total += float(loss.detach())
    learner.step()
    return total

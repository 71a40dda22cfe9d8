"""Hidden-state distillation: a student's layers learn to say what the teacher's layers say.

    L = mean over pairs (s, t) of  1/T Σ_τ d(P_s h_s(τ), h_t(τ))       d: mean squared error, or 1 - cosine

P_s, one per pair, maps the student's width to the teacher's where they differ; it is learned with the student and
dropped at the end. Sources: FitNets (arXiv 1412.6550); TinyBERT's uniform layer mapping (arXiv 1909.10351). Where we
depart: the squared error is divided by the mean square of the teacher's states, so that a weight means the same in
every layer and model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from edgepress.compress.distill.config import Distance

Pairs = tuple[tuple[int, int], ...]


def uniform_pairs(student_depth: int, teacher_depth: int) -> Pairs:
    """Each of the student's layers with the teacher's at the same relative depth, last with last; both from 0."""
    return tuple((s, (s + 1) * teacher_depth // student_depth - 1) for s in range(student_depth))


class Projectors(nn.Module):
    """One linear map per pair of layers, from the student's width to the teacher's; the identity where they agree."""

    def __init__(self, pairs: Pairs, student_width: int, teacher_width: int, seed: int = 0) -> None:
        super().__init__()
        self.pairs = pairs
        count = 0 if student_width == teacher_width else len(pairs)
        generator = torch.Generator().manual_seed(seed)
        self.maps = nn.ParameterList(
            torch.randn(teacher_width, student_width, generator=generator) / student_width**0.5 for _ in range(count)
        )

    def project(self, place: int, hidden: torch.Tensor) -> torch.Tensor:
        """The student's states of pair ``place``, (…, student width), in the teacher's width."""
        return functional.linear(hidden, self.maps[place]) if len(self.maps) else hidden


def hidden_state_loss(
    student: Sequence[torch.Tensor],
    teacher: Sequence[torch.Tensor],
    mask: torch.Tensor,
    projectors: Projectors,
    distance: Distance = "mse",
) -> torch.Tensor:
    """Mean distance over pairs and over the tokens that ``mask`` counts, a scalar.

    Args:
        student: states after each layer, (samples, length, width).
        teacher: likewise, in the teacher's width.
        mask: bool, (samples, length); at least one token counts.
        projectors: with the pairs of layers.
        distance: relative squared error, or one minus the cosine.
    """
    losses = [
        _distance(projectors.project(place, student[s][mask]), teacher[t][mask].detach(), distance)
        for place, (s, t) in enumerate(projectors.pairs)
    ]
    return torch.stack(losses).mean()


def _distance(ours: torch.Tensor, theirs: torch.Tensor, distance: Distance) -> torch.Tensor:
    if distance == "cosine":
        return (1 - functional.cosine_similarity(ours, theirs, dim=-1)).mean()
    return (ours - theirs).square().mean() / theirs.square().mean()

"""Distances of hidden states against sums in plain numpy, and what projectors can learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from one_core import one_core  # noqa: F401

from edgepress.compress.distill.hidden_states import Projectors, hidden_state_loss, uniform_pairs

pytestmark = pytest.mark.usefixtures("one_core")


def test_layers_are_paired_at_the_same_depth_and_last_with_last() -> None:
    assert uniform_pairs(4, 12) == ((0, 2), (1, 5), (2, 8), (3, 11))
    assert uniform_pairs(3, 3) == ((0, 0), (1, 1), (2, 2))


def states(seed: int, width: int) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, width, dtype=torch.float64, generator=rng) for _ in range(4)]


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_masked_tokens_do_not_count_in_the_hidden_states(distance: str) -> None:
    student, teacher = states(0, 6)[:2], states(1, 6)
    mask = torch.tensor([[True, False, True], [False, True, True]])
    projectors = Projectors(((0, 1), (1, 3)), 6, 6)
    found = hidden_state_loss(student, teacher, mask, projectors, distance)  # type: ignore[arg-type]
    wanted = []
    for s, t in projectors.pairs:
        ours, theirs = student[s].numpy()[mask.numpy()], teacher[t].numpy()[mask.numpy()]
        if distance == "mse":
            wanted.append(((ours - theirs) ** 2).mean() / (theirs**2).mean())
        else:
            lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
            wanted.append((1 - (ours * theirs).sum(1) / lengths).mean())
    assert float(found) == pytest.approx(float(np.mean(wanted)), rel=1e-12)


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_equal_hidden_states_give_no_loss_and_no_gradient(distance: str) -> None:
    student = [state.requires_grad_(True) for state in states(2, 6)]
    teacher = [state.detach().clone() for state in student]
    mask = torch.ones(2, 3, dtype=torch.bool)
    loss = hidden_state_loss(student, teacher, mask, Projectors(uniform_pairs(4, 4), 6, 6), distance)  # type: ignore[arg-type]
    assert float(loss.detach()) == pytest.approx(0, abs=1e-12)
    assert max(float(g.abs().max()) for g in torch.autograd.grad(loss, student)) < 1e-12


def test_projectors_learn_a_linear_map_between_widths() -> None:
    """States that are a linear map of each other: least squares says that nothing need be lost."""
    student = [torch.randn(4, 50, 6, generator=torch.Generator().manual_seed(0))]
    teacher = [student[0] @ torch.randn(6, 10, generator=torch.Generator().manual_seed(1))]
    mask, projectors = torch.ones(4, 50, dtype=torch.bool), Projectors(((0, 0),), 6, 10)
    adam = torch.optim.Adam(projectors.parameters(), lr=0.05)
    for _ in range(300):
        adam.zero_grad()
        loss = hidden_state_loss(student, teacher, mask, projectors)
        torch.autograd.backward(loss)
        adam.step()
    assert float(loss.detach()) < 1e-4

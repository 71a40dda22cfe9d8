"""The losses against closed forms, a bandit whose best arm is known, and a discriminator whose optimum is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgepress.compress.distill.gad.losses import bradley_terry_loss, clipped_policy_loss, group_advantages, whitened

TEACHERS = torch.tensor([0.5, -1.0], dtype=torch.float64)
STUDENTS = torch.tensor([[0.1, 2.0, -3.0], [0.0, -1.0, 40.0]], dtype=torch.float64)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_the_discriminators_loss_and_gradient_are_the_closed_form() -> None:
    teachers, students = TEACHERS.clone().requires_grad_(True), STUDENTS.clone().requires_grad_(True)
    loss = bradley_terry_loss(teachers, students)
    margins = [[float(t - s) for s in row] for t, row in zip(TEACHERS, STUDENTS, strict=True)]
    wanted = np.mean([math.log1p(math.exp(-margin)) for row in margins for margin in row])
    assert float(loss.detach()) == pytest.approx(float(wanted), rel=1e-12)
    of_teachers, of_students = torch.autograd.grad(loss, (teachers, students))
    lost = np.array([[sigmoid(-margin) for margin in row] for row in margins]) / 6
    np.testing.assert_allclose(of_students.numpy(), lost, rtol=1e-12)
    np.testing.assert_allclose(of_teachers.numpy(), -lost.sum(1), rtol=1e-12)


def test_no_margin_is_too_large_for_the_loss() -> None:
    assert float(bradley_terry_loss(torch.tensor([-500.0]), torch.tensor([[500.0]]))) == 1000
    assert float(bradley_terry_loss(torch.tensor([500.0]), torch.tensor([[-500.0]]))) == 0


def expected_loss(scores: torch.Tensor, p: tuple[int, ...], q: tuple[int, ...]) -> torch.Tensor:
    """Over all pairs of answers, each as often as it is likely."""
    teachers, students = (torch.repeat_interleave(scores, torch.tensor(counts)) for counts in (p, q))
    return bradley_terry_loss(teachers, students.expand(len(teachers), -1))


def test_the_best_discriminator_is_the_log_odds() -> None:
    p, q = (10, 5, 4, 1), (2, 6, 4, 8)
    scores = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    for _ in range(1000):
        (gradient,) = torch.autograd.grad(expected_loss(scores, p, q), scores)
        scores = (scores - 4 * gradient).detach().requires_grad_(True)
    wanted = (torch.tensor(p).double() / torch.tensor(q)).log()
    torch.testing.assert_close(scores.detach() - scores.detach()[0], wanted - wanted[0], atol=1e-4, rtol=0)


def test_where_teacher_and_student_are_alike_the_best_discriminator_is_indifferent() -> None:
    scores = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    loss = expected_loss(scores, (5, 3, 2), (5, 3, 2))
    assert float(loss.detach()) == pytest.approx(math.log(2))
    (gradient,) = torch.autograd.grad(loss, scores)
    torch.testing.assert_close(gradient, torch.zeros(3, dtype=torch.float64))


def test_advantages_are_rewards_by_the_groups_mean_and_spread() -> None:
    found = group_advantages(torch.tensor([[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]], dtype=torch.float64))
    spread = math.sqrt((4 + 1 + 0 + 9) / 4)
    np.testing.assert_allclose(found[0], np.array([-2.0, -1.0, 0.0, 3.0]) / spread, rtol=1e-3)
    assert found[1].tolist() == [0.0] * 4


def test_whitened_rewards_are_a_unit_for_fines_and_leave_advantages_alone() -> None:
    rewards = torch.tensor([[1.0, 2.0], [30.0, -7.0]], dtype=torch.float64)
    found = whitened(rewards)
    assert float(found.mean()) == pytest.approx(0, abs=1e-12)
    assert float(found.std(correction=0)) == pytest.approx(1, rel=1e-3)
    torch.testing.assert_close(group_advantages(found), group_advantages(rewards), rtol=1e-2, atol=1e-3)


def log_policy(logits: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(logits, -1)


def test_the_expected_gradient_is_that_of_the_expected_reward() -> None:
    """By enumeration: ∂/∂z_a Σ π r = π_a (r_a - Σ π r)."""
    logits = torch.tensor([0.3, -0.5, 1.1], dtype=torch.float64, requires_grad=True)
    rewards = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    policy = log_policy(logits.detach()).exp()
    wanted = policy * (rewards - (policy * rewards).sum())
    losses = clipped_policy_loss(log_policy(logits), log_policy(logits).detach(), rewards, 0.2)
    (gradient,) = torch.autograd.grad((policy * losses).sum(), logits)
    torch.testing.assert_close(-gradient, wanted)


def test_a_bandits_best_arm_is_found() -> None:
    logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    rewards = torch.tensor([0.1, 0.9, 0.4, 0.8], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        drawn = torch.multinomial(log_policy(logits).detach().exp(), 8, replacement=True, generator=generator)
        advantages = group_advantages(rewards[drawn][None])[0]
        log_probs = log_policy(logits)[drawn]
        loss = clipped_policy_loss(log_probs, log_probs.detach(), advantages, 0.2).mean()
        (gradient,) = torch.autograd.grad(loss, logits)
        logits = (logits - 0.5 * gradient).detach().requires_grad_(True)
    assert float(log_policy(logits.detach())[1].exp()) > 0.95


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "flows"),
    [
        (1.0, 2.0, -2.0, True),
        (1.1, 2.0, -2.2, True),
        (1.5, 2.0, -2.4, False),  # likelier already: no more of it
        (0.5, 2.0, -1.0, True),  # less likely, though better: all the way back
        (0.5, -2.0, 1.6, False),
        (1.5, -2.0, 3.0, True),
    ],
)
def test_the_clip_cuts_what_has_moved_far_enough_in_the_right_direction(
    ratio: float, advantage: float, value: float, flows: bool
) -> None:
    log_probs = torch.tensor([math.log(ratio) - 1.7], dtype=torch.float64, requires_grad=True)
    old, advantages = torch.tensor([-1.7], dtype=torch.float64), torch.tensor([advantage], dtype=torch.float64)
    loss = clipped_policy_loss(log_probs, old, advantages, 0.2)
    assert float(loss.detach()) == pytest.approx(value)
    (gradient,) = torch.autograd.grad(loss.sum(), log_probs)
    assert float(gradient) == pytest.approx(-ratio * advantage if flows else 0)

"""Losses of distillation against sums in plain float64, and their gradients against difference quotients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from one_core import one_core  # noqa: F401
from torch.utils._python_dispatch import TorchDispatchMode

from edgepress.compress.distill import through_head
from edgepress.compress.distill.losses import hard_label_cross_entropy, jsd, kl, reverse_kl
from edgepress.compress.distill.sparse_kl import sparse_kl
from edgepress.compress.distill.through_head import mean_loss

pytestmark = pytest.mark.usefixtures("one_core")
VOCAB, TOKENS = 37, 5
Loss = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


def logits(seed: int, tokens: int = TOKENS, vocab: int = VOCAB, spread: float = 3.0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((tokens, vocab)) * spread)


def softmax(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in row]
    return [power / math.fsum(powers) for power in powers]


def divergence(p: list[float], q: list[float]) -> float:
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def top_of(teacher: torch.Tensor, k: int, temperature: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The k likeliest tokens, their log-probabilities and the log of the rest, by sorting."""
    p = torch.softmax(teacher / temperature, -1)
    order = teacher.argsort(dim=-1, descending=True)
    sorted_p = p.gather(-1, order)
    return order[:, :k], sorted_p[:, :k].log(), sorted_p[:, k:].sum(-1).log()


def bucketed(row: list[float], ids: list[int]) -> list[float]:
    return [row[i] for i in ids] + [math.fsum(value for i, value in enumerate(row) if i not in ids)]


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_every_divergence_is_its_definition(temperature: float) -> None:
    student, teacher = logits(1), logits(2)
    for row in range(TOKENS):
        p, q = softmax(teacher[row].tolist(), temperature), softmax(student[row].tolist(), temperature)
        mixture = [0.3 * a + 0.7 * b for a, b in zip(p, q, strict=True)]
        one = slice(row, row + 1)
        found = [loss(student[one], teacher[one], temperature) for loss in (kl, reverse_kl)]
        found.append(jsd(student[one], teacher[one], temperature, 0.3))
        wanted = [divergence(p, q), divergence(q, p), 0.3 * divergence(p, mixture) + 0.7 * divergence(q, mixture)]
        assert [float(value) for value in found] == pytest.approx([temperature**2 * v for v in wanted], rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 6, VOCAB - 1])
def test_the_sparse_divergence_is_that_of_k_tokens_and_one_bucket(k: int, temperature: float) -> None:
    student, teacher = logits(3), logits(4)
    found = sparse_kl(student, *top_of(teacher, k, temperature), temperature)
    for row, ids in enumerate(top_of(teacher, k, temperature)[0].tolist()):
        p, q = softmax(teacher[row].tolist(), temperature), softmax(student[row].tolist(), temperature)
        wanted = temperature**2 * divergence(bucketed(p, ids), bucketed(q, ids))
        assert float(found[row]) == pytest.approx(wanted, rel=1e-9)


def test_the_sparse_divergence_of_the_whole_vocabulary_is_the_dense_one() -> None:
    student, teacher = logits(3).requires_grad_(True), logits(4)
    everything = sparse_kl(student, *top_of(teacher, VOCAB, 1.5), 1.5)
    torch.testing.assert_close(everything, kl(student, teacher, 1.5), rtol=1e-12, atol=1e-14)
    (gradient,) = torch.autograd.grad(everything.sum(), student)
    assert bool(gradient.isfinite().all())


def test_a_teacher_without_a_tail_leaves_no_trace_of_infinity() -> None:
    teacher = logits(5)
    teacher[:, 4:] = -1e4  # probability exactly 0
    student = logits(6).requires_grad_(True)
    loss = sparse_kl(student, *top_of(teacher, 4, 1.0))
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert bool(loss.isfinite().all()) and bool(gradient.isfinite().all())


def test_a_student_that_gives_the_tail_nothing_is_told_so_to_the_last_digit() -> None:
    """In float32, where 1 - Σ q would be 0 or noise."""
    student = torch.full((1, VOCAB), -40.0)
    student[0, :2] = torch.tensor([0.0, -1.0])
    teacher = logits(7, 1)
    ids, log_probs, log_tail = top_of(teacher, 2, 1.0)
    student = student[:, torch.randperm(VOCAB, generator=torch.Generator().manual_seed(0))]
    found = sparse_kl(student, ids, log_probs.float(), log_tail.float())
    q = softmax(student[0].tolist(), 1.0)
    p = softmax(teacher[0].tolist(), 1.0)
    assert float(found) == pytest.approx(
        divergence(bucketed(p, ids[0].tolist()), bucketed(q, ids[0].tolist())), rel=1e-5
    )


LOSSES: list[Loss] = [
    kl,
    reverse_kl,
    jsd,
    lambda s, t, x: jsd(s, t, x, 0.9),
    lambda s, t, x: sparse_kl(s, *top_of(t, 6, x), x),
    lambda s, t, x: hard_label_cross_entropy(s, t.argmin(-1)),
]


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_difference_quotients(loss: Loss) -> None:
    student, teacher = logits(8).requires_grad_(True), logits(9)
    assert torch.autograd.gradcheck(lambda z: loss(z, teacher, 2.0), student)


@pytest.mark.parametrize("loss", LOSSES[:-1])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_an_identical_teacher_gives_no_loss_and_no_gradient(loss: Loss, temperature: float) -> None:
    student = logits(10).requires_grad_(True)
    value = loss(student, student.detach().clone(), temperature)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert float(value.detach().abs().max()) < 1e-12
    assert float(gradient.abs().max()) < 1e-12


def test_the_temperature_hardly_changes_the_size_of_the_gradient() -> None:
    """What T² is for: near the limit of high temperatures the gradient is (z - z')/V, whatever T."""
    student, teacher = logits(11, spread=0.1).requires_grad_(True), logits(12, spread=0.1)
    norms = [float(torch.autograd.grad(kl(student, teacher, t).sum(), student)[0].norm()) for t in (4.0, 16.0)]
    assert norms[0] == pytest.approx(norms[1], rel=0.02)


def zipf_logits(seed: int, vocab: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A teacher with the long tail of a language and a student that is off by a nat."""
    rng = np.random.default_rng(seed)
    ranks = np.log(np.arange(1, vocab + 1))
    teacher = np.stack([rng.permutation(-1.6 * ranks + rng.standard_normal(vocab) * 0.5) for _ in range(tokens)])
    return torch.from_numpy(teacher), torch.from_numpy(teacher + rng.standard_normal(teacher.shape))


def test_the_sparse_gradient_points_where_the_dense_one_does() -> None:
    teacher, student = zipf_logits(0, 8192, 32)
    student.requires_grad_(True)
    (dense,) = torch.autograd.grad(kl(student, teacher).sum(), student)
    (sparse,) = torch.autograd.grad(sparse_kl(student, *top_of(teacher, 64, 1.0)).sum(), student)
    assert float(torch.cosine_similarity(dense.flatten(), sparse.flatten(), dim=0)) > 0.99


@pytest.mark.parametrize("tokens", [1, 256, 600])
def test_a_loss_through_the_head_has_the_gradients_of_all_logits_at_once(
    tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(through_head, "_LOGIT_BYTES_AT_ONCE", 100 * VOCAB * 8)
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, 8, dtype=torch.float64, generator=rng, requires_grad=True)
    head = torch.randn(VOCAB, 8, dtype=torch.float64, generator=rng, requires_grad=True)
    teacher = logits(13, tokens)
    weights = torch.rand(tokens, dtype=torch.float64, generator=rng)
    whole = (weights * kl(hidden @ head.T, teacher)).mean()
    pieces = mean_loss(hidden, head, lambda z, rows: weights[rows] * kl(z, teacher[rows]))
    torch.testing.assert_close(pieces, whole, rtol=1e-12, atol=0)
    for found, wanted in zip(
        torch.autograd.grad(3 * pieces, (hidden, head)), torch.autograd.grad(3 * whole, (hidden, head)), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-14)


def test_a_frozen_head_costs_no_product_and_changes_nothing_else() -> None:
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(20, 8, generator=rng, requires_grad=True)
    head = torch.randn(VOCAB, 8, generator=rng)
    teacher = logits(13, 20).float()

    class Shapes(TorchDispatchMode):  # type: ignore[no-untyped-call]
        seen: ClassVar[list[torch.Size]] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor):
                self.seen.append(found.shape)
            return found

    def gradient(frozen: bool) -> torch.Tensor:
        loss = mean_loss(hidden, head.detach().requires_grad_(not frozen), lambda z, rows: kl(z, teacher[rows]))
        return torch.autograd.grad(loss, hidden)[0]

    whole = gradient(frozen=False)
    with Shapes() as shapes:  # type: ignore[no-untyped-call]
        assert torch.equal(gradient(frozen=True), whole)
    assert sum(shape == head.shape for shape in shapes.seen) <= 1  # the head itself, detached


def test_gradients_in_bfloat16_point_where_exact_ones_do() -> None:
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(300, 32, generator=rng, requires_grad=True)
    head = torch.randn(VOCAB, 32, generator=rng, requires_grad=True)
    teacher = logits(14, 300).float()
    found, exact = (
        torch.autograd.grad(
            mean_loss(hidden, head, lambda z, rows: kl(z, teacher[rows]), in_bfloat16=way), (hidden, head)
        )
        for way in (True, False)
    )
    for ours, wanted in zip(found, exact, strict=True):
        assert ours.dtype == torch.float32
        assert float((ours - wanted).norm() / wanted.norm()) < 2.0**-7

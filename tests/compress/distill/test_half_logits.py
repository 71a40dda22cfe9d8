"""Divergences of logits that are halves against sums over single values in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from one_core import one_core  # noqa: F401

from edgepress.compress.distill import through_head
from edgepress.compress.distill.config import TEMPERATURES
from edgepress.compress.distill.half_logits import likeliest, to_gradient
from edgepress.compress.distill.sparse_kl import sparse_kl
from edgepress.compress.distill.through_head import mean_loss
from edgepress.compress.distill.top_k import TopK

pytestmark = pytest.mark.usefixtures("one_core")
VOCAB, WIDTH, TOKENS = 301, 24, 70


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def factors(seed: int, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    hidden, head = rng.standard_normal((TOKENS, WIDTH)), rng.standard_normal((VOCAB, WIDTH)) * spread
    return torch.from_numpy(hidden).float(), torch.from_numpy(head).float()


def product(hidden: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    return hidden.bfloat16() @ head.bfloat16().T


def top_of(logits: torch.Tensor, k: int, temperature: float) -> TopK:
    p = torch.softmax(logits.double() / temperature, -1)
    order = logits.argsort(dim=-1, descending=True)
    likeliest = p.gather(-1, order)
    return TopK(order[:, :k], likeliest[:, :k].log().float(), likeliest[:, k:].sum(-1).log().float())


def other_teacher(seed: int, hidden: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    noise = np.random.default_rng(seed).standard_normal((TOKENS, VOCAB))
    return hidden.double() @ head.double().T + torch.from_numpy(noise)


def by_hand(
    row: list[float], ids: list[int], p: list[float], rest: float, temperature: float
) -> tuple[float, list[float]]:
    """The divergence over k tokens and one bucket, and its gradient by every logit."""
    powers = [math.exp(z / temperature) for z in row]
    q = [power / math.fsum(powers) for power in powers]
    tail = math.fsum(value for place, value in enumerate(q) if place not in ids)
    loss = math.fsum(a * math.log(a / q[i]) for a, i in zip(p, ids, strict=True))
    loss += rest * math.log(rest / tail) if rest else 0.0
    gradient = [temperature * value * (1 - (rest / tail if rest else 0.0)) for value in q]
    for a, i in zip(p, ids, strict=True):
        gradient[i] = temperature * (q[i] - a)
    return temperature**2 * loss, gradient


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("k", [1, 6, VOCAB - 1])
@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
def test_loss_and_gradient_are_those_of_exact_logits_in_the_top_k_and_halves_outside(
    k: int, temperature: float, spread: float
) -> None:
    hidden, head = factors(1, spread)
    teacher = top_of(other_teacher(2, hidden, head), k, temperature)
    halves = product(hidden, head)
    exact = (hidden.double() @ head.double().T).gather(-1, teacher.ids)
    rows = halves.double().scatter(-1, teacher.ids, exact).tolist()
    found = to_gradient(halves, hidden, head, teacher, temperature, 0.3)
    total = 0.0
    for place, row in enumerate(rows):
        ids, p = teacher.ids[place].tolist(), teacher.log_probs[place].double().exp().tolist()
        loss, gradient = by_hand(row, ids, p, float(teacher.log_tail[place].double().exp()), temperature)
        total += 0.3 * loss
        wanted = 0.3 * torch.tensor(gradient, dtype=torch.float64)
        # 2⁻⁹ from rounding; p and q beside each other are float32's.
        torch.testing.assert_close(halves[place].double(), wanted, rtol=2.0**-8, atol=2e-6)
    assert found == pytest.approx(total, rel=2e-6, abs=2e-5)


def test_a_student_that_is_its_teacher_has_no_loss_and_no_gradient_beyond_roundings() -> None:
    hidden, head = factors(3, 0.3)
    halves = product(hidden, head)
    exact = hidden.double() @ head.double().T
    found = to_gradient(halves, hidden, head, top_of(exact, 64, 1.0))
    assert 0 <= found < 1e-4 * TOKENS
    assert float(halves.float().abs().max()) < 2e-3


def test_a_teacher_without_a_rest_leaves_no_trace_of_infinity() -> None:
    hidden, head = factors(4)
    logits = other_teacher(5, hidden, head)
    logits[:, 4:] = -1e4  # probability exactly 0
    halves = product(hidden, head)
    assert math.isfinite(to_gradient(halves, hidden, head, top_of(logits, 4, 1.0)))
    assert bool(halves.isfinite().all())


def test_with_the_whole_vocabulary_in_the_top_k_nothing_is_rounded() -> None:
    hidden, head = factors(6)
    teacher = other_teacher(7, hidden, head)
    everything = top_of(teacher, VOCAB, 1.0)
    logits = (hidden.double() @ head.double().T).requires_grad_(True)
    wanted = sparse_kl(logits, *everything)
    (gradient,) = torch.autograd.grad(wanted.sum(), logits)
    halves = product(hidden, head)
    assert to_gradient(halves, hidden, head, everything) == pytest.approx(float(wanted.sum().detach()), rel=1e-5)
    torch.testing.assert_close(halves.double(), gradient, rtol=2.0**-8, atol=1e-6)


def test_a_student_that_gives_the_rest_nothing_is_told_so() -> None:
    """Logits that are 200 apart: in float32, 1 - Σ q would be 0."""
    hidden, head = torch.ones(TOKENS, 1), torch.full((VOCAB, 1), -100.0)
    head[:2] = 100.0
    teacher = TopK(
        torch.tensor([[0, 1]] * TOKENS), torch.full((TOKENS, 2), math.log(0.4)), torch.full((TOKENS,), math.log(0.2))
    )
    halves = product(hidden, head)
    found = to_gradient(halves, hidden, head, teacher)
    log_rest = math.log(VOCAB - 2) - 200 - math.log(2)
    wanted = 0.8 * math.log(0.4 / 0.5) + 0.2 * (math.log(0.2) - log_rest)
    assert found == pytest.approx(TOKENS * wanted, rel=1e-6)
    assert halves[0, :2].tolist() == pytest.approx([0.1, 0.1], rel=2.0**-8)
    assert halves[0, 2:].tolist() == pytest.approx([-0.2 / (VOCAB - 2)] * (VOCAB - 2), rel=2.0**-8)


def test_tokens_come_out_the_same_on_one_thread_and_on_several(threads: None) -> None:
    hidden, head = factors(8)
    teacher, results = top_of(other_teacher(9, hidden, head), 8, 1.0), []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        halves = product(hidden, head)
        loss = to_gradient(halves, hidden, head, teacher)
        results.append((torch.tensor(loss), halves, *likeliest(product(hidden, head), hidden, head, 8)))
    for several in results[1:]:
        assert all(map(torch.equal, results[0], several))


@pytest.mark.parametrize("frozen", [False, True])
def test_through_the_head_gradients_are_nearly_those_of_float64(frozen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(through_head, "_LOGIT_BYTES_AT_ONCE", 30 * VOCAB * 4)
    hidden, head = factors(10, 0.5)
    teacher = top_of(other_teacher(11, hidden, head), 8, 2.0)
    wide = hidden.double().requires_grad_(True), head.double().requires_grad_(True)
    wanted = 0.4 * sparse_kl(wide[0] @ wide[1].T, *teacher, 2.0).mean()
    narrow = hidden.requires_grad_(True), head.requires_grad_(not frozen)
    found = mean_loss(
        *narrow,
        lambda logits, rows: pytest.fail("halves were wanted"),
        in_bfloat16=True,
        of_halves=lambda logits, h, b, rows: to_gradient(
            logits, h, b, TopK(*(part[rows] for part in teacher)), 2.0, 0.4
        ),
    )
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-3)
    torch.autograd.backward([3 * wanted, 3 * found])
    for ours, exact in zip(narrow[: 2 - frozen], wide, strict=False):
        assert ours.grad is not None and exact.grad is not None
        assert float((ours.grad - exact.grad).norm() / exact.grad.norm()) < 0.01
    assert not frozen or narrow[1].grad is None


@pytest.mark.parametrize("k", [1, 7, 64, VOCAB - 1])
@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_the_likeliest_are_those_of_exact_logits_and_the_rest_is_as_likely(k: int, spread: float) -> None:
    hidden, head = factors(12, spread)
    halves, exact = product(hidden, head), hidden.double() @ head.double().T
    ids, log_probs, log_tails = likeliest(halves.clone(), hidden, head, k)
    # In order, and nothing that is left out is likelier than what is kept, but for neighbours that float32 confuses.
    kept = exact.gather(-1, ids)
    assert float(kept.diff(dim=-1).clamp(min=0).sum()) < 1e-4
    assert bool((kept.amin(-1) >= exact.scatter(-1, ids, -math.inf).amax(-1) - 1e-4).all())
    whole = torch.log_softmax(halves.double().scatter(-1, ids, kept), -1)
    torch.testing.assert_close(log_probs.double(), whole.gather(-1, ids), rtol=1e-6, atol=2e-5)
    for place, temperature in enumerate(TEMPERATURES):
        wanted = (whole.scatter(-1, ids, -math.inf) / temperature).logsumexp(-1)
        torch.testing.assert_close(log_tails[:, place].double(), wanted, rtol=1e-6, atol=5e-5)


def test_probabilities_of_the_likeliest_and_the_rest_make_one() -> None:
    hidden, head = factors(13, 0.5)
    _, log_probs, log_tails = likeliest(product(hidden, head), hidden, head, 9)
    total = log_probs.double().exp().sum(-1) + log_tails[:, TEMPERATURES.index(1.0)].double().exp()
    torch.testing.assert_close(total, torch.ones(TOKENS, dtype=torch.float64), rtol=0, atol=1e-5)


def test_a_vocabulary_without_a_rest_has_none() -> None:
    hidden, head = factors(14)
    ids, log_probs, log_tails = likeliest(product(hidden, head), hidden, head, VOCAB)
    assert all(sorted(row) == list(range(VOCAB)) for row in ids.tolist())
    torch.testing.assert_close(log_probs.double().exp().sum(-1), torch.ones(TOKENS, dtype=torch.float64))
    assert float(log_tails.max()) < -1e4


def test_equal_logits_are_as_good_as_any() -> None:
    hidden, head = torch.ones(TOKENS, 2), torch.ones(VOCAB, 2)
    ids, log_probs, log_tails = likeliest(product(hidden, head), hidden, head, 5)
    assert all(len(set(row)) == 5 for row in ids.tolist())
    assert log_probs.flatten().tolist() == pytest.approx([-math.log(VOCAB)] * 5 * TOKENS, rel=1e-5)
    assert log_tails[:, 0].tolist() == pytest.approx([math.log(1 - 5 / VOCAB)] * TOKENS, rel=1e-3)


@pytest.mark.parametrize("none", [math.nan, -math.nan, math.inf])
@pytest.mark.parametrize("place", [(1, slice(None)), (slice(1, 2), 3)])
def test_logits_that_are_no_numbers_stay_none(none: float, place: tuple[int, slice]) -> None:
    hidden, head = factors(15)
    hidden[place] = none
    halves = product(hidden, head)
    _, log_probs, _ = likeliest(halves.clone(), hidden, head, 5)
    others = torch.arange(TOKENS) != 1
    assert not log_probs[1].isfinite().all() and bool(log_probs[others].isfinite().all())
    assert not math.isfinite(to_gradient(halves, hidden, head, top_of(other_teacher(2, *factors(15)), 5, 1.0)))

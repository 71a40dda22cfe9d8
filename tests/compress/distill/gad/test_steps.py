"""A step of the discriminator and one of the student against brute force, text by text and without filling."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from one_core import one_core  # noqa: F401
from tiny_models import make_model_dir

from edgepress.compress.distill.gad.answers import Block, block
from edgepress.compress.distill.gad.discriminator import Discriminator, discriminator_step
from edgepress.compress.distill.gad.learner import Learner
from edgepress.compress.distill.gad.policy import log_probs_of, policy_step
from edgepress.compress.student.open import open_student
from edgepress.runtime.torch_reference import load_model

pytestmark = pytest.mark.usefixtures("one_core")
PROMPTS = [[10, 11, 12], [10, 11, 12], [20], [20]]
ANSWERS = [[30, 31, 1], [40, 1], [50, 51, 52, 53], [60, 1]]
ADVANTAGES = torch.tensor([1.0, -1.0, 0.5, -2.0])
EVERYTHING = 10_000


@pytest.fixture(scope="module")
def student_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_dir("llama", tmp_path_factory.mktemp("steps") / "student")


@pytest.fixture
def student(student_dir: Path) -> Any:
    return load_model(open_student(str(student_dir))).eval()


@pytest.fixture
def reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_model(open_student(str(make_model_dir("llama", tmp_path_factory.mktemp("r") / "r", seed=5)))).eval()


def texts() -> Block:
    return block(PROMPTS, ANSWERS)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """Those of the next step, as they are before they are clipped."""
    kept: dict[str, torch.Tensor] = {}
    for name, value in model.named_parameters():
        value.requires_grad_(True)
        value.register_hook(lambda gradient, name=name: kept.__setitem__(name, kept.get(name, 0) + gradient))
    return kept


def wanted_loss(student: Any, reference: Any, old: torch.Tensor | None, clip: float, weight: float) -> torch.Tensor:
    """Token by token; the divergence is the expectation of GRPO's estimator, ρ - log ρ - 1 with ρ = π_0 / π."""
    losses, place = [], 0
    for prompt, answer, advantage in zip(PROMPTS, ANSWERS, ADVANTAGES.tolist(), strict=True):
        ids = torch.tensor([[*prompt, *answer]])
        ours = torch.log_softmax(student(ids).logits[0], -1)
        theirs = torch.log_softmax(reference(ids).logits[0].detach(), -1)
        for offset, token in enumerate(answer):
            row = len(prompt) + offset - 1
            before = ours[row, token].detach() if old is None else old[place]
            ratio = (ours[row, token] - before).exp()
            plain = float(ratio.detach()) * advantage
            kept = min(plain, float(ratio.detach().clamp(1 - clip, 1 + clip)) * advantage)
            policy = -ratio * advantage if math.isclose(kept, plain) else torch.tensor(-kept)
            log_ratio = theirs[row] - ours[row]
            losses.append(policy + weight * (ours[row].exp() * (log_ratio.exp() - log_ratio - 1)).sum())
            place += 1
    return torch.stack(losses).mean()


@pytest.mark.parametrize("piece_tokens", [EVERYTHING, 7])
@pytest.mark.parametrize("moved", [False, True])
def test_the_students_gradient_is_that_of_brute_force(
    student: Any, reference: Any, piece_tokens: int, moved: bool
) -> None:
    shifts = 0.4 * torch.randn(11, generator=torch.Generator().manual_seed(0)) if moved else None
    old = None if shifts is None else log_probs_of(student, texts(), EVERYTHING) + shifts
    other = copy.deepcopy(student).requires_grad_(True)
    loss = wanted_loss(other, reference, old, 0.2, 0.3)
    torch.autograd.backward(loss)
    found = gradients(student)
    options: dict[str, Any] = {"old_log_probs": old, "clip": 0.2, "kl": 0.3, "piece_tokens": piece_tokens}
    policy_step(student, reference, Learner(student, 1e-9), texts(), ADVANTAGES, **options)
    for name, value in other.named_parameters():
        torch.testing.assert_close(found[name], value.grad, rtol=1e-3, atol=2e-6)


def test_the_divergence_is_that_before_the_step_and_zero_from_oneself(student: Any, reference: Any) -> None:
    options: dict[str, Any] = {"old_log_probs": None, "clip": 0.2, "kl": 0.1, "piece_tokens": EVERYTHING}
    own, silent = copy.deepcopy(student), torch.zeros(4)
    assert policy_step(student, own, Learner(student, 1e-9), texts(), silent, **options) == pytest.approx(0, abs=1e-6)
    wanted = float(wanted_loss(student, reference, None, 0.2, 1.0).detach())
    wanted -= float(wanted_loss(student, reference, None, 0.2, 0.0).detach())
    found = policy_step(student, reference, Learner(student, 1e-9), texts(), ADVANTAGES, **options)
    assert found == pytest.approx(wanted, rel=1e-4)


def test_better_answers_become_likelier_and_worse_ones_less_so(student: Any) -> None:
    learner, own = Learner(student, 1e-3), copy.deepcopy(student)
    alone = [block([prompt], [answer]) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    before = [float(log_probs_of(student, text, EVERYTHING).sum()) for text in alone]
    for _ in range(3):
        options: dict[str, Any] = {"old_log_probs": None, "clip": 0.2, "kl": 0.0, "piece_tokens": EVERYTHING}
        policy_step(student, own, learner, texts(), ADVANTAGES, **options)
    after = [float(log_probs_of(student, text, EVERYTHING).sum()) for text in alone]
    assert [b > a for a, b in zip(before, after, strict=True)] == [True, False, True, False]


def with_a_head(student: Any) -> Discriminator:
    found = Discriminator(student)
    with torch.no_grad():
        found.head.normal_(generator=torch.Generator().manual_seed(2))
    return found


def test_a_new_discriminator_is_indifferent(student: Any) -> None:
    assert Discriminator(student)(texts()).tolist() == [0.0] * 4


def test_a_score_is_of_the_answers_last_token_whatever_it_is_filled_up_with(student: Any) -> None:
    discriminator = with_a_head(student)
    found = discriminator.scores(texts(), 9)
    for place, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        states = student.model(torch.tensor([[*prompt, *answer]])).last_hidden_state[0, -1]
        assert float(found[place]) == pytest.approx(float((states @ discriminator.head).detach()), abs=1e-4)


@pytest.mark.parametrize("piece_tokens", [EVERYTHING, 7])
def test_the_discriminators_gradient_is_that_of_all_pairs(student: Any, piece_tokens: int) -> None:
    discriminator = with_a_head(student)
    other = copy.deepcopy(discriminator).requires_grad_(True)
    teachers = block([PROMPTS[0], PROMPTS[2]], [[33, 1], [44, 45, 1]])
    of_teachers, of_students = other(teachers), other(texts())
    margins = [of_teachers[place // 2] - of_students[place] for place in range(4)]
    loss = -torch.stack([torch.nn.functional.logsigmoid(margin) for margin in margins]).mean()
    torch.autograd.backward(loss)
    found = gradients(discriminator)
    told = discriminator_step(discriminator, Learner(discriminator, 1e-9), teachers, texts(), piece_tokens)
    assert told == pytest.approx(float(loss.detach()), rel=1e-5)
    for name, value in other.named_parameters():
        torch.testing.assert_close(found[name], value.grad, rtol=1e-3, atol=1e-6)


def test_trained_on_known_distributions_a_discriminator_comes_to_their_log_odds(student: Any) -> None:
    """p = (4, 2, 1, 1) / 8 and q = (1, 1, 2, 4) / 8 over four answers; every pair as often as it is likely."""
    answers, p, q = [[30, 1], [31, 32, 1], [33, 1], [34, 35, 1]], (4, 2, 1, 1), (1, 1, 2, 4)
    ours = [answer for answer, count in zip(answers, p, strict=True) for _ in range(count)]
    theirs = [answer for answer, count in zip(answers, q, strict=True) for _ in range(count)]
    teachers, students = block([[10]] * 8, ours), block([[10]] * 64, theirs * 8)
    discriminator = Discriminator(student)
    learner = Learner(discriminator, 3e-3)
    for _ in range(150):
        discriminator_step(discriminator, learner, teachers, students, EVERYTHING)
    found = discriminator.scores(block([[10]] * 4, answers), EVERYTHING)
    wanted = torch.tensor([math.log(a / b) for a, b in zip(p, q, strict=True)])
    torch.testing.assert_close(found - found.mean(), wanted - wanted.mean(), atol=0.1, rtol=0)


def test_a_learner_goes_on_from_what_it_saved(student: Any) -> None:
    teachers = block([PROMPTS[0], PROMPTS[2]], [[33, 1], [44, 45, 1]])

    def steps(discriminator: Discriminator, learner: Learner, count: int) -> None:
        for _ in range(count):
            discriminator_step(discriminator, learner, teachers, texts(), EVERYTHING)

    whole, cut, resumed = (Discriminator(student) for _ in range(3))
    steps(whole, Learner(whole, 1e-2), 4)
    first, second = Learner(cut, 1e-2), Learner(resumed, 1e-2)
    second.restore(first.tensors())
    steps(cut, first, 2)
    second.restore(first.tensors())
    steps(resumed, second, 2)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)

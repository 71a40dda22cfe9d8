"""The whole training on a toy: a few prompts, a teacher of three answers with known odds, all of it counted out."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from one_core import one_core  # noqa: F401
from tiny_models import make_model_dir

from edgepress.compress.distill.gad.adversary import Adversary
from edgepress.compress.distill.gad.answers import block, write_answers
from edgepress.compress.distill.gad.config import Adversarial, GadSettings, Guards, WarmUp
from edgepress.compress.distill.gad.discriminator import Discriminator
from edgepress.compress.distill.gad.judge import HeldOut, halves, unfinished, win_rate
from edgepress.compress.distill.gad.pairs import Pair
from edgepress.compress.distill.gad.policy import log_probs_of
from edgepress.compress.distill.gad.progress import GadProgress
from edgepress.compress.distill.gad.warm_up import warm_up
from edgepress.compress.distill.trainer_state import TrainerState
from edgepress.compress.student.open import open_student
from edgepress.errors import EdgepressError
from edgepress.runtime.torch_reference import load_model

pytestmark = pytest.mark.usefixtures("one_core")
STOPS = frozenset({1})
ANSWERS, ODDS = ((30, 1), (40, 41, 1), (50, 1)), (0.5, 0.3, 0.2)
SETTINGS = GadSettings(
    warm_up=WarmUp(passes=1.0, batch=16, rate=3e-3, checks=2),
    gad=Adversarial(
        steps=24, discriminator_steps=10, prompts=8, samples=4, answer_tokens=4, rate=1e-3, discriminator_rate=1e-3,
        checks=4, judge_steps=20, save_steps=5,
    ),
    guards=Guards(patience=0, win_rate_drop=1.0, diversity_floor=0.0, most_unfinished=1.0),
)  # fmt: skip


def changed(**options: Any) -> GadSettings:
    return msgspec.structs.replace(SETTINGS, gad=msgspec.structs.replace(SETTINGS.gad, **options))


def teachers_pairs(count: int, seed: int) -> list[Pair]:
    rng = np.random.default_rng(seed)
    drawn = rng.choice(len(ANSWERS), count, p=ODDS).tolist()
    return [Pair((100 + place % 12, 7), ANSWERS[answer], True) for place, answer in enumerate(drawn)]


TRAIN, HELD_OUT = teachers_pairs(192, 0), teachers_pairs(96, 1)


@pytest.fixture(scope="module")
def student_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_dir("llama", tmp_path_factory.mktemp("gad") / "student")


@pytest.fixture(scope="module")
def warmed_up(student_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    model = load_model(open_student(str(student_dir)))
    course = warm_up(model, TRAIN, HELD_OUT, SETTINGS, TrainerState(tmp_path_factory.mktemp("warm")))
    assert course.steps == 12
    assert course.best.held_out < course.checks[0].held_out
    return model


def adversary(warmed_up: Any, settings: GadSettings = SETTINGS) -> tuple[Adversary, Any]:
    student, reference = copy.deepcopy(warmed_up), copy.deepcopy(warmed_up)
    held_out = HeldOut(reference, HELD_OUT, settings.gad, STOPS)
    return Adversary(student, reference, TRAIN, held_out, settings, STOPS), student


def state(path: Path) -> TrainerState[GadProgress]:
    return TrainerState[GadProgress](path, GadProgress)


def probabilities(model: Any) -> np.ndarray:
    """Of the teacher's answers, counted out, (prompts, answers)."""
    prompts = sorted({pair.prompt for pair in HELD_OUT})
    found = [[log_probs_of(model, block([p], [a]), 1000).sum().exp() for a in ANSWERS] for p in prompts]
    return np.array(found)


def test_probability_moves_to_the_teachers_answers(warmed_up: Any, tmp_path: Path) -> None:
    run, student = adversary(warmed_up)
    course = run.train(state(tmp_path))
    before, after = probabilities(warmed_up).sum(1), probabilities(student).sum(1)
    assert course.steps == 34
    assert course.best.step > 10
    assert course.best.win_rate > course.checks[0].win_rate
    assert (after > before).all()
    assert after.mean() > before.mean() + 0.15
    assert [row.kl is None for row in course.rows] == [True] * 10 + [False] * 24
    assert course.rows[10].kl == pytest.approx(0, abs=1e-6) and (course.rows[-1].kl or 0) > 1e-3


def test_a_student_that_is_its_own_teacher_is_not_told_apart(warmed_up: Any, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(4)
    prompts = [(100 + place % 12, 7) for place in range(256)]
    answers = write_answers(warmed_up, prompts, 4, STOPS, generator)
    own = [Pair(p, tuple(a), a[-1] in STOPS) for p, a in zip(prompts, answers, strict=True)]
    held_out = HeldOut(warmed_up, own, SETTINGS.gad, STOPS)
    found = held_out.check(warmed_up, Discriminator(warmed_up), 0, None)
    assert found.accuracy == 0.5
    assert found.win_rate == pytest.approx(0.5, abs=0.1)
    other = HeldOut(warmed_up, HELD_OUT, SETTINGS.gad, STOPS).check(warmed_up, Discriminator(warmed_up), 0, None)
    assert other.win_rate < 0.4


def test_the_student_is_the_state_that_the_judge_took_most_often(warmed_up: Any, tmp_path: Path) -> None:
    """With steps far too large that is the warmed-up one."""
    run, student = adversary(warmed_up, changed(rate=0.3, steps=4, discriminator_steps=2, checks=2))
    course = run.train(state(tmp_path))
    assert course.best.step == 0
    for one, other in zip(student.parameters(), warmed_up.parameters(), strict=True):
        assert torch.equal(one, other)


def test_without_steps_the_warmed_up_student_is_measured_and_kept(warmed_up: Any, tmp_path: Path) -> None:
    run, student = adversary(warmed_up, changed(steps=0))
    course = run.train(state(tmp_path))
    assert (course.steps, len(course.checks)) == (0, 1)
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), warmed_up.parameters(), strict=True))


@pytest.mark.parametrize("passes", [1, 2])
def test_a_run_that_goes_on_is_to_the_bit_one_that_never_stopped(warmed_up: Any, tmp_path: Path, passes: int) -> None:
    settings = changed(passes=passes, steps=6, discriminator_steps=3, checks=2, judge_steps=3, save_steps=2)
    whole, student = adversary(warmed_up, settings)
    wanted = whole.train(state(tmp_path / "whole"))

    class StoppedError(Exception):
        pass

    class StopsAlways(TrainerState[GadProgress]):
        def save(self, progress: GadProgress, tensors: Any) -> None:
            super().save(progress, tensors)
            raise StoppedError

    for _ in range(3):
        with pytest.raises(StoppedError):
            adversary(warmed_up, settings)[0].train(StopsAlways(tmp_path / "cut", GadProgress))
    resumed, other = adversary(warmed_up, settings)
    found = resumed.train(state(tmp_path / "cut"))
    assert (found.rows, found.checks) == (wanted.rows, wanted.checks)
    for one, two in zip(student.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_guard_ends_the_training_and_the_best_state_is_kept(warmed_up: Any, tmp_path: Path) -> None:
    guards = Guards(patience=1, plateau=1.0)
    settings = msgspec.structs.replace(SETTINGS, guards=guards)
    run, _ = adversary(warmed_up, settings)
    course = run.train(state(tmp_path))
    assert [ending.guard for ending in course.endings] == ["plateau"]
    assert course.steps == 22  # the second check after that at the start
    again, _ = adversary(warmed_up, settings)
    assert again.train(state(tmp_path)) == course


def test_the_seed_makes_the_run(warmed_up: Any) -> None:
    def rows(seed: int) -> list[Any]:
        run, _ = adversary(warmed_up, changed(seed=seed, discriminator_steps=1))
        return [run.step(number) for number in range(3)]

    assert rows(0) == rows(0) != rows(1)


def test_unfinished_answers_are_fined_where_the_teachers_is_finished() -> None:
    pairs = [Pair((5,), (6, 1), True), Pair((5,), (6, 7), False)]
    assert unfinished(pairs, [[8, 1], [8, 9], [8, 9], [8, 1]], STOPS).tolist() == [0, 1, 0, 0]


def test_a_fine_turns_the_student_to_answers_that_end(warmed_up: Any) -> None:
    """Against a discriminator that is as indifferent as at the start, the fine is all that there is to be had."""
    run, _ = adversary(warmed_up, changed(discriminator_steps=0, discriminator_rate=1e-12, answer_tokens=3, kl=0.0))
    rows = [run.step(number) for number in range(30)]
    assert np.mean([row.unfinished for row in rows[-5:]]) < 0.5 * np.mean([row.unfinished for row in rows[:5]])


def test_ties_are_half_a_win() -> None:
    scores = torch.tensor([1.0, 0.0]), torch.tensor([[2.0, 1.0, 0.0, 0.0], [0.0, -1.0, 1.0, 1.0]])
    found = win_rate(*scores, "ab")
    assert found.value == pytest.approx((1.5 / 4 + 2.5 / 4) / 2)
    assert found.se == pytest.approx(np.std([1.5 / 4, 2.5 / 4], ddof=1) / 2**0.5)


def test_the_same_answers_again_to_a_prompt_make_a_rate_no_surer() -> None:
    rng = np.random.default_rng(0)
    teachers, ours = torch.from_numpy(rng.normal(size=12)), torch.from_numpy(rng.normal(size=(12, 4)))
    once = win_rate(teachers, ours, list(range(12)))
    thrice = win_rate(teachers.repeat(3), ours.repeat(3, 1), list(range(12)) * 3)
    assert thrice.value == pytest.approx(once.value)
    assert thrice.se == pytest.approx(once.se)


def test_no_prompt_both_teaches_the_judge_and_is_judged() -> None:
    repeated = [Pair((prompt,), (answer, 1), True) for prompt in range(9) for answer in range(20, 22)]
    teaching, judged = halves(repeated)
    assert {pair.prompt for pair in teaching} == {(0,), (2,), (4,), (6,), (8,)}
    assert sorted([*teaching, *judged]) == repeated
    assert not {pair.prompt for pair in teaching} & {pair.prompt for pair in judged}


def test_a_training_that_diverges_says_so(warmed_up: Any) -> None:
    run, _ = adversary(warmed_up, changed(discriminator_steps=0))
    with torch.no_grad():
        run._discriminator.head.fill_(float("nan"))
    with pytest.raises(EdgepressError, match=r"diverged in step 1: .* lower gad\.rate"):
        run.step(0)

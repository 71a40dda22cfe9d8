"""On-policy distillation: what the student writes, what is learned of it, and that no gradient passes the sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from one_core import one_core  # noqa: F401
from tiny_models import make_model_dir

from edgepress.compress.distill.config import Loss, Training, check_loss
from edgepress.compress.distill.on_policy import OnPolicy, continue_texts
from edgepress.compress.distill.targets import TeacherAlongside
from edgepress.compress.distill.text import Text
from edgepress.compress.distill.train import Trainer, order
from edgepress.compress.distill.trainer_state import TrainerState
from edgepress.compress.student.open import open_student
from edgepress.compress.student.student import Student
from edgepress.errors import InputError
from edgepress.runtime.torch_reference import load_model

pytestmark = pytest.mark.usefixtures("one_core")
LENGTH, PROMPT, COUNT = 16, 5, 8
TRAINING = Training(
    tokens=3 * 4 * LENGTH,
    length=LENGTH,
    batch_tokens=4 * LENGTH,
    piece_tokens=2 * LENGTH,
    precision="float32",
    top_k=0,
    on_policy=1.0,
    prompt=PROMPT,
    checks=1,
    save_steps=1,
)
REVERSE = Loss(kl=0, reverse_kl=1)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return open_student(str(make_model_dir("llama", tmp_path_factory.mktemp("t") / "teacher", num_hidden_layers=3)))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return open_student(str(make_model_dir("llama", tmp_path_factory.mktemp("s") / "student", seed=1)))


def windows(seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(4, 300, (COUNT, LENGTH)))


def trainer(teacher: Student, student: Student, training: Training = TRAINING, **options: Any) -> tuple[Trainer, Any]:
    loss, model = options.get("loss", REVERSE), load_model(student)
    text = Text(windows().numpy().astype(np.int32), np.ones((COUNT, LENGTH), bool))
    targets = TeacherAlongside(load_model(teacher), loss)
    writer = OnPolicy(training, options.get("stop_ids", frozenset()))
    size = teacher.spec.depth, teacher.spec.hidden
    return Trainer(model, targets, text, loss, training, size, writer), model


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_what_is_sampled_is_what_the_whole_model_without_a_cache_would_say(family: str, tmp_path: Path) -> None:
    model = load_model(open_student(str(make_model_dir(family, tmp_path / "model")))).eval()
    found = continue_texts(model, windows()[:, :PROMPT], LENGTH, torch.Generator().manual_seed(3))
    generator, wanted = torch.Generator().manual_seed(3), windows()[:, :PROMPT]
    with torch.no_grad():
        while wanted.shape[1] < LENGTH:
            odds = torch.softmax(model(wanted).logits[:, -1], -1)
            wanted = torch.cat([wanted, torch.multinomial(odds, 1, generator=generator)], 1)
    assert torch.equal(found, wanted)


def test_learned_is_what_was_written_up_to_the_token_that_ends_it(student: Student) -> None:
    model, free = load_model(student), OnPolicy(TRAINING, frozenset())
    written, learned = free.rewrite(model, windows(), 0)
    assert torch.equal(written[:, :PROMPT], windows()[:, :PROMPT])
    assert learned.tolist() == [[place >= PROMPT for place in range(1, LENGTH)]] * COUNT
    stop = int(written[0, PROMPT + 3])
    _, learned = OnPolicy(TRAINING, frozenset({stop})).rewrite(model, windows(), 0)
    for row, counted in zip(written.tolist(), learned.tolist(), strict=True):
        last = next((place for place in range(PROMPT, LENGTH) if row[place] == stop), LENGTH - 1)
        assert counted == [PROMPT <= place <= last for place in range(1, LENGTH)]


def test_a_steps_loss_is_the_divergence_on_the_students_own_words_and_its_gradient_that_of_fixed_text(
    teacher: Student, student: Student
) -> None:
    run, model = trainer(teacher, student, msgspec.structs.replace(TRAINING, batch_tokens=COUNT * LENGTH, rate=1e-9))
    other, judge = load_model(student).requires_grad_(True), load_model(teacher)
    tokens = windows()[torch.from_numpy(order(0, COUNT, COUNT, 0))]
    written, _ = OnPolicy(TRAINING, frozenset()).rewrite(other, tokens, 0)
    q = torch.log_softmax(other(written).logits[:, PROMPT - 1 : -1].double(), -1)
    with torch.no_grad():
        p = torch.log_softmax(judge(written).logits[:, PROMPT - 1 : -1].double(), -1)
    wanted = (q.exp() * (q - p)).sum(-1).mean()
    torch.autograd.backward(wanted)
    kept: dict[str, torch.Tensor] = {}
    for name, value in model.named_parameters():
        value.register_hook(lambda gradient, name=name: kept.__setitem__(name, kept.get(name, 0) + gradient))
    assert run.step(0) == pytest.approx(float(wanted.detach()), rel=1e-5)
    for name, value in other.named_parameters():
        torch.testing.assert_close(kept[name], value.grad, rtol=1e-3, atol=1e-6)


def test_a_teacher_like_the_student_leaves_nothing_to_learn(student: Student) -> None:
    for loss in (REVERSE, Loss(kl=0, jsd=1), Loss(kl=1)):
        run, _ = trainer(student, student, loss=loss)
        assert run.step(0) == pytest.approx(0, abs=1e-6)


def test_training_makes_the_students_own_words_more_like_the_teachers(teacher: Student, student: Student) -> None:
    run, _ = trainer(teacher, student, msgspec.structs.replace(TRAINING, tokens=60 * 4 * LENGTH, rate=5e-3))
    losses = [run.step(number) for number in range(60)]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])


def test_a_share_of_the_steps_is_the_students(student: Student) -> None:
    half = OnPolicy(msgspec.structs.replace(TRAINING, on_policy=0.5), frozenset())
    assert 400 < sum(map(half.applies, range(1000))) < 600
    assert [half.applies(step) for step in range(50)] == [half.applies(step) for step in range(50)]
    never, always = (OnPolicy(msgspec.structs.replace(TRAINING, on_policy=share), frozenset()) for share in (0.0, 1.0))
    assert not any(map(never.applies, range(200))) and all(map(always.applies, range(200)))


def test_a_run_that_goes_on_has_the_curve_of_one_that_never_stopped(
    teacher: Student, student: Student, tmp_path: Path
) -> None:
    whole = trainer(teacher, student)[0].train(TrainerState(tmp_path / "whole"), lambda _: 1.0)
    run, _ = trainer(teacher, student)

    class StoppedError(Exception):
        pass

    class StopsAtOnce(TrainerState):
        def save(self, progress: Any, tensors: Any) -> None:
            super().save(progress, tensors)
            raise StoppedError

    with pytest.raises(StoppedError):
        run.train(StopsAtOnce(tmp_path / "cut"), lambda _: 1.0)
    resumed = trainer(teacher, student)[0].train(TrainerState(tmp_path / "cut"), lambda _: 1.0)
    assert resumed.losses == whole.losses


@pytest.mark.parametrize(
    ("loss", "training", "message"),
    [
        (REVERSE, {"top_k": 8}, "top_k: 0"),
        (Loss(hard_labels=0.5), {}, "the student's own samples"),
        (REVERSE, {"prompt": LENGTH}, "nothing to write"),
    ],
)
def test_what_teaches_nothing_is_refused(loss: Loss, training: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_loss(loss, msgspec.structs.replace(TRAINING, **training), 300)

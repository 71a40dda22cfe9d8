"""A teacher, a narrower student, windows of a text, and a trainer of the one towards the other."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from tiny_models import make_model_dir

from edgepress.compress.distill.config import Loss, Training
from edgepress.compress.distill.held_out import HeldOut
from edgepress.compress.distill.targets import Targets, TeacherAlongside
from edgepress.compress.distill.text import Text
from edgepress.compress.distill.train import Trainer
from edgepress.compress.student.open import open_student
from edgepress.compress.student.student import Student
from edgepress.runtime.torch_reference import load_model

LENGTH, COUNT = 16, 10
TRAINING = Training(
    tokens=6 * 4 * LENGTH,
    length=LENGTH,
    batch_tokens=4 * LENGTH,
    piece_tokens=4 * LENGTH,
    precision="float32",
    checks=3,
    save_steps=2,
)


def changed(**options: Any) -> Training:
    return msgspec.structs.replace(TRAINING, **options)


@pytest.fixture(name="teacher", scope="module")
def make_teacher(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return open_student(str(make_model_dir("llama", tmp_path_factory.mktemp("t") / "teacher", num_hidden_layers=4)))


@pytest.fixture(name="student", scope="module")
def make_student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    directory = tmp_path_factory.mktemp("s") / "student"
    return open_student(str(make_model_dir("llama", directory, seed=1, hidden_size=32, head_dim=8)))


def text(seed: int = 0, count: int = COUNT) -> Text:
    """Windows of which about two thirds of the tokens are learned."""
    rng = np.random.default_rng(seed)
    learned = rng.random((count, LENGTH)) < 0.66
    learned[:, 1] = True
    return Text(rng.integers(4, 300, (count, LENGTH)).astype(np.int32), learned)


def alongside(teacher: Student, loss: Loss) -> Targets:
    return TeacherAlongside(load_model(teacher), loss)


def trainer(
    teacher: Student, student: Student, loss: Loss, training: Training = TRAINING, targets: Targets | None = None
) -> tuple[Trainer, Any]:
    model = load_model(student)
    size = teacher.spec.depth, teacher.spec.hidden
    return Trainer(model, targets or alongside(teacher, loss), text(), loss, training, size), model


def judge(teacher: Student) -> HeldOut:
    return HeldOut(teacher, text(seed=9))

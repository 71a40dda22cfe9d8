"""The trainer on a pretended GPU: nothing is mixed with what lies elsewhere, and the same comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from one_core import one_core  # noqa: F401
from own_cache import own_cache  # noqa: F401
from pretend_gpu import CPU, pretended_gpu
from tiny_models import make_model_dir

from edgepress.compress.distill.config import Lora, Loss, Training
from edgepress.compress.distill.held_out import HeldOut
from edgepress.compress.distill.on_policy import OnPolicy
from edgepress.compress.distill.precision import in_bfloat16
from edgepress.compress.distill.processes import Processes
from edgepress.compress.distill.targets import CachedTargets, Targets, TeacherAlongside
from edgepress.compress.distill.teacher_cache import TeacherCache
from edgepress.compress.distill.text import Text
from edgepress.compress.distill.train import Trainer
from edgepress.compress.distill.trainer_state import Progress, TrainerState
from edgepress.compress.student.open import open_student
from edgepress.compress.student.student import Student
from edgepress.runtime.torch_reference import load_model

pytestmark = pytest.mark.usefixtures("one_core", "own_cache")
LENGTH, COUNT = 16, 6
TRAINING = Training(
    tokens=3 * 3 * LENGTH,
    length=LENGTH,
    batch_tokens=3 * LENGTH,
    piece_tokens=2 * LENGTH,
    precision="float32",
    checks=1,
    save_steps=2,
    top_k=0,
)
CASES: dict[str, tuple[Loss, dict[str, Any]]] = {
    "alongside": (Loss(kl=1, hidden=0.5, hard_labels=0.1), {"checkpointing": True}),
    "all divergences": (Loss(kl=1, reverse_kl=1, jsd=1), {}),
    "cached": (Loss(kl=1, hard_labels=0.1, temperature=2.0), {"top_k": 64}),
    "adapters": (Loss(kl=1), {"lora": Lora(rank=4)}),
    "on policy": (Loss(kl=0, reverse_kl=1), {"on_policy": 1.0, "prompt": 6}),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Student, Student]:
    root = tmp_path_factory.mktemp("models")
    make_model_dir("llama", root / "teacher")
    make_model_dir("llama", root / "student", seed=1, hidden_size=32, head_dim=8)
    return open_student(str(root / "teacher")), open_student(str(root / "student"))


def text(seed: int) -> Text:
    rng = np.random.default_rng(seed)
    learned = rng.random((COUNT, LENGTH)) < 0.66
    learned[:, 1] = True
    return Text(rng.integers(4, 300, (COUNT, LENGTH)).astype(np.int32), learned)


def train(models: tuple[Student, Student], case: str, state: Path, device: torch.device) -> tuple[Progress, Any]:
    (teacher, student), (loss, options) = models, CASES[case]
    training = msgspec.structs.replace(TRAINING, **options)
    targets: Targets
    if training.top_k:
        targets = CachedTargets(TeacherCache(teacher, text(0).tokens, training.top_k, device=device), loss)
    else:
        targets = TeacherAlongside(load_model(teacher).to(device), loss)
    writer = OnPolicy(training, frozenset({1})) if training.on_policy else None
    model, size = load_model(student), (teacher.spec.depth, teacher.spec.hidden)
    trainer = Trainer(model, targets, text(0), loss, training, size, writer, Processes(0, 1, device))
    return trainer.train(TrainerState(state), HeldOut(teacher, text(9)).divergence), model


@pytest.mark.parametrize("case", CASES)
def test_training_on_a_gpu_is_training(
    case: str, models: tuple[Student, Student], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the saved state of a run that is done as well, whose moments go back to the GPU."""
    wanted, plain = train(models, case, tmp_path / "cpu", CPU)
    real = torch.Generator
    with pretended_gpu() as gpu:
        monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(torch, "Generator", lambda device=CPU: real())
        found, model = train(models, case, tmp_path / "gpu", gpu)
        again, _ = train(models, case, tmp_path / "gpu", gpu)
        assert {value.device for value in model.parameters()} == {gpu}
    assert (found.losses, found.checks) == (wanted.losses, wanted.checks) == (again.losses, again.checks)
    for one, two in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, two)


def test_what_is_pretended_refuses_what_a_gpu_refuses() -> None:
    here = torch.ones(3)
    with pretended_gpu() as gpu:
        there = torch.zeros(3, device=gpu)
        assert (there + 1).device == here.to(gpu).device == gpu
        assert (there.cpu() + here).device == CPU
        with pytest.raises(RuntimeError, match="same device"):
            there + here
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()


def test_bfloat16_is_for_gpus_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    auto, exact = msgspec.structs.replace(TRAINING, precision="auto"), TRAINING
    for native in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation, native=native: native)
        assert in_bfloat16(auto, torch.device("cuda")) is native
        assert not in_bfloat16(exact, torch.device("cuda"))

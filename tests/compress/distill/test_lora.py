"""Adapters: gradients against those of the dense matrices, what stays frozen, what is merged and what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from one_core import one_core  # noqa: F401
from own_cache import own_cache  # noqa: F401
from safetensors.numpy import load_file
from stopped_training import StoppedError, StopsAtTheSecondState
from tiny_models import FAMILY_NAMES, make_model_dir

from edgepress.compress.distill.config import Lora, Loss, Training, check_rank
from edgepress.compress.distill.held_out import HeldOut
from edgepress.compress.distill.lora import add_adapters, merge_adapters
from edgepress.compress.distill.targets import TeacherAlongside
from edgepress.compress.distill.text import Text
from edgepress.compress.distill.train import Trainer, order
from edgepress.compress.distill.trainer_state import TrainerState
from edgepress.compress.student.open import open_student
from edgepress.compress.student.student import Student
from edgepress.errors import InputError
from edgepress.runtime.torch_reference import load_model

pytestmark = pytest.mark.usefixtures("one_core", "own_cache")
LENGTH, COUNT = 16, 10
LORA = Lora(rank=4, alpha=6)
TRAINING = Training(
    tokens=6 * 4 * LENGTH,
    length=LENGTH,
    batch_tokens=4 * LENGTH,
    piece_tokens=2 * LENGTH,
    precision="float32",
    checks=3,
    save_steps=2,
    rate=1e-2,
    lora=LORA,
)
KL, LABELS = Loss(), Loss(kl=0, hard_labels=1)
FROZEN = ("embed_tokens", "norm", "lm_head", "bias")


def changed(**options: Any) -> Training:
    return msgspec.structs.replace(TRAINING, **options)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Student, Student]]:
    """A teacher and a student of each family."""
    root = tmp_path_factory.mktemp("models")

    def made(family: str, seed: int) -> Student:
        return open_student(str(make_model_dir(family, root / f"{family}-{seed}", seed=seed)))

    return {family: (made(family, 0), made(family, 1)) for family in FAMILY_NAMES}


@pytest.fixture(scope="module")
def teacher(models: dict[str, tuple[Student, Student]]) -> Student:
    return models["llama"][0]


@pytest.fixture(scope="module")
def student(models: dict[str, tuple[Student, Student]]) -> Student:
    return models["llama"][1]


def text(seed: int = 0) -> Text:
    rng = np.random.default_rng(seed)
    learned = rng.random((COUNT, LENGTH)) < 0.66
    learned[:, 1] = True
    return Text(rng.integers(4, 300, (COUNT, LENGTH)).astype(np.int32), learned)


def judge(teacher: Student) -> HeldOut:
    return HeldOut(teacher, text(seed=9))


def trainer(teacher: Student, student: Student, training: Training = TRAINING, loss: Loss = KL) -> tuple[Trainer, Any]:
    model, targets = load_model(student), TeacherAlongside(load_model(teacher), loss)
    return Trainer(model, targets, text(), loss, training, (teacher.spec.depth, teacher.spec.hidden)), model


def gradients(run: Trainer, model: Any) -> dict[str, torch.Tensor]:
    """Of the first step's loss, by parameter."""
    windows = order(0, 4, COUNT, 0)
    tokens, learned = torch.from_numpy(text().tokens[windows]).long(), torch.from_numpy(text().learned[windows, 1:])
    run._backward(windows, tokens, learned, int(learned.sum()), 0)
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@torch.no_grad()
def give_changes(model: Any) -> dict[str, torch.Tensor]:
    """Make every adapter's B something; α/r B A of each matrix, by its name in the plain model."""
    torch.manual_seed(5)
    found = {}
    for name, part in model.named_modules():
        if hasattr(part, "lora_B"):
            up, down = part.lora_B["default"].weight, part.lora_A["default"].weight
            up.normal_(0, 0.05)
            found[f"{name}.weight"] = LORA.alpha / LORA.rank * up @ down
    return found


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_gradients_are_those_of_the_dense_matrices_projected(
    family: str, models: dict[str, tuple[Student, Student]]
) -> None:
    """∂L/∂B = α/r dW Aᵀ and ∂L/∂A = α/r Bᵀ dW, where dW is of a plain model with the matrices W + α/r B A."""
    teacher, student = models[family]
    run, adapted = trainer(teacher, student)
    plain_run, plain = trainer(teacher, student, changed(lora=None))
    changes = give_changes(adapted)
    assert len(changes) == 7 * student.spec.depth
    with torch.no_grad():
        for name, change in changes.items():
            plain.get_parameter(name).add_(change)
    found, dense = gradients(run, adapted), gradients(plain_run, plain)
    assert set(found) == {name for name, _ in adapted.named_parameters() if "lora_" in name}
    for name in changes:
        layer, dW = adapted.get_submodule(name.removesuffix(".weight")), dense[name]
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        scale = LORA.alpha / LORA.rank
        torch.testing.assert_close(up.grad, scale * dW @ down.T, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(down.grad, scale * up.T @ dW, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_merged_student_says_what_it_said_with_its_adapters(
    family: str, models: dict[str, tuple[Student, Student]]
) -> None:
    source = models[family][1]
    model, tokens = load_model(source), torch.from_numpy(text().tokens).long()
    names = [name for name, _ in model.named_parameters()]
    with torch.no_grad():
        before = model(tokens).logits
        add_adapters(model, LORA, 0)
        torch.testing.assert_close(model(tokens).logits, before, rtol=0, atol=0)
        give_changes(model)
        apart = model(tokens).logits
        merge_adapters(model)
        merged = model(tokens).logits
    assert [name for name, _ in model.named_parameters()] == names
    assert (apart - before).abs().max() > 0.1
    torch.testing.assert_close(merged, apart, rtol=1e-5, atol=1e-5 * float(apart.abs().max()))


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_what_is_frozen_keeps_every_bit(
    family: str, models: dict[str, tuple[Student, Student]], tmp_path: Path
) -> None:
    teacher, student = models[family]
    run, model = trainer(teacher, student)
    found = run.train(TrainerState(tmp_path / "state"), judge(teacher).divergence)
    assert found.best.held_out < found.checks[0].held_out
    assert judge(teacher).divergence(model) == pytest.approx(found.best.held_out, rel=1e-5)
    for name in student.names:
        before, after = student.read(name), model.get_parameter(name).detach().numpy()
        if any(part in name for part in FROZEN):
            np.testing.assert_array_equal(after, before)
        else:
            change = np.linalg.svd((after - before).astype(np.float64), compute_uv=False)
            assert change[0] > 1e-3
            assert change[LORA.rank] < 1e-5 * change[0] + 1e-5


def test_a_change_of_full_rank_takes_the_step_of_the_dense_matrix() -> None:
    """With A orthogonal and B = 0, one step of gradient descent changes W + BA by that of W: dW Aᵀ A = dW."""
    layer: Any = torch.nn.Module()
    layer.model = torch.nn.Module()
    layer.model.layers = torch.nn.ModuleList([torch.nn.Linear(6, 5, bias=False)])
    weight, states, wanted = layer.model.layers[0].weight.detach().clone(), torch.randn(20, 6), torch.randn(20, 5)
    add_adapters(layer, Lora(rank=6, alpha=6), 0)
    adapter = layer.model.layers[0]
    torch.nn.init.orthogonal_(adapter.lora_A["default"].weight)
    (adapter(states) - wanted).square().sum().backward()
    with torch.no_grad():
        adapter.lora_B["default"].weight -= 0.01 * adapter.lora_B["default"].weight.grad
    merge_adapters(layer)
    dense = weight - 0.01 * 2 * (states @ weight.T - wanted).T @ states
    torch.testing.assert_close(layer.model.layers[0].weight, dense, rtol=1e-5, atol=1e-5)


def test_a_start_that_stays_the_best_comes_back_as_it_was(student: Student, tmp_path: Path) -> None:
    """Judged by how far it is from itself, and trained on noise."""
    run, model = trainer(student, student, loss=LABELS)
    assert run.train(TrainerState(tmp_path / "state"), judge(student).divergence).best.step == 0
    for name in student.names:
        np.testing.assert_array_equal(model.get_parameter(name).detach().numpy(), student.read(name))


def test_the_last_state_is_merged_where_that_is_kept(student: Student, tmp_path: Path) -> None:
    run, model = trainer(student, student, changed(keep="last"), LABELS)
    found = run.train(TrainerState(tmp_path / "state"), judge(student).divergence)
    assert found.checks[-1].held_out > 1e-3
    assert judge(student).divergence(model) == pytest.approx(found.checks[-1].held_out, rel=1e-3)


def test_checkpointing_changes_memory_and_not_the_curve(teacher: Student, student: Student) -> None:
    kept, again = (trainer(teacher, student, changed(checkpointing=way))[0] for way in (False, True))
    assert [again.step(number) for number in range(3)] == pytest.approx([kept.step(n) for n in range(3)], rel=1e-6)


def test_a_saved_state_holds_adapters_and_projectors_and_goes_on_to_the_same_bits(
    models: dict[str, tuple[Student, Student]], tmp_path: Path
) -> None:
    teacher, narrow = models["llama"][0], open_student(
        str(make_model_dir("llama", tmp_path / "narrow", seed=1, hidden_size=32, head_dim=8))
    )  # fmt: skip
    loss = Loss(kl=1, hidden=0.5)
    whole, model = trainer(teacher, narrow, loss=loss)
    wanted = whole.train(TrainerState(tmp_path / "whole"), judge(teacher).divergence)
    with pytest.raises(StoppedError):
        trainer(teacher, narrow, loss=loss)[0].train(StopsAtTheSecondState(tmp_path / "cut"), judge(teacher).divergence)
    saved = load_file(tmp_path / "cut" / "step-00000004" / "state.safetensors")
    assert all("lora_" in name or name.startswith("projectors.") for name in saved)
    assert sum("lora_A" in name for name in saved) == 3 * 7 * 2
    resumed, other = trainer(teacher, narrow, loss=loss)
    found = resumed.train(TrainerState(tmp_path / "cut"), judge(teacher).divergence)
    assert (found.losses, found.checks) == (wanted.losses, wanted.checks)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_adapters_follow_from_the_seed_and_leave_the_random_state(student: Student) -> None:
    def first(seed: int) -> torch.Tensor:
        model = load_model(student)
        add_adapters(model, LORA, seed)
        adapter: torch.Tensor = model.model.layers[0].mlp.up_proj.lora_A["default"].weight
        return adapter.detach()

    state = torch.get_rng_state()
    assert torch.equal(first(3), first(3))
    assert not torch.equal(first(3), first(4))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_rank_that_no_matrix_has_is_refused(student: Student) -> None:
    shapes = {name: student.shape(name) for name in student.names}
    check_rank(Lora(rank=32), shapes)
    check_rank(None, shapes)
    with pytest.raises(InputError, match=r"lora.rank: 33 is more than .*k_proj.weight of 32 × 64 has; take 32 or less"):
        check_rank(Lora(rank=33), shapes)

"""The trainer: its loss against brute force, pieces and sources of targets that must not matter, and what it keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from one_core import one_core  # noqa: F401
from own_cache import own_cache  # noqa: F401
from stopped_training import StoppedError, StopsAtTheSecondState
from training_scene import (  # noqa: F401
    COUNT,
    LENGTH,
    TRAINING,
    alongside,
    changed,
    judge,
    make_student,
    make_teacher,
    text,
    trainer,
)

from edgepress.compress.distill import targets as targets_module
from edgepress.compress.distill import train
from edgepress.compress.distill.config import Loss
from edgepress.compress.distill.held_out import HeldOutWords
from edgepress.compress.distill.targets import CachedTargets, TextOnly
from edgepress.compress.distill.teacher_cache import TeacherCache
from edgepress.compress.distill.train import order
from edgepress.compress.distill.trainer_state import TrainerState
from edgepress.compress.student.student import Student
from edgepress.errors import InputError
from edgepress.runtime.torch_reference import load_model

pytestmark = pytest.mark.usefixtures("one_core", "own_cache")


def losses(*arguments: Any, steps: int = 4) -> list[float]:
    run, _ = trainer(*arguments)
    return [run.step(number) for number in range(steps)]


def brute_force(teacher: Student, student: Student, windows: np.ndarray) -> dict[str, float]:
    """Sums in float64 over the learned tokens of windows, one token at a time."""
    found: dict[str, list[float]] = {"kl": [], "cross_entropy": []}
    models = [load_model(source).double() for source in (teacher, student)]
    for window in windows:
        tokens, learned = text().tokens[window].tolist(), text().learned[window].tolist()
        p, q = (torch.log_softmax(model(torch.tensor([tokens])).logits[0].detach(), -1).numpy() for model in models)
        for place in range(1, LENGTH):
            if learned[place]:
                before = place - 1
                found["kl"].append(float((np.exp(p[before]) * (p[before] - q[before])).sum()))
                found["cross_entropy"].append(-float(q[before][tokens[place]]))
    return {name: float(np.mean(values)) for name, values in found.items()}


def test_the_loss_of_a_step_is_the_mean_over_its_learned_tokens(teacher: Student, student: Student) -> None:
    wanted = brute_force(teacher, student, order(0, 4, COUNT, 0))
    found = losses(teacher, student, Loss(kl=0.75, hard_labels=0.25), steps=1)[0]
    assert found == pytest.approx(0.75 * wanted["kl"] + 0.25 * wanted["cross_entropy"], rel=1e-5)


def test_without_a_teacher_the_text_alone_is_learned(teacher: Student, student: Student) -> None:
    wanted = brute_force(teacher, student, order(0, 4, COUNT, 0))
    found = losses(teacher, student, Loss(kl=0, hard_labels=1), TRAINING, TextOnly(), steps=1)[0]
    assert found == pytest.approx(wanted["cross_entropy"], rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_cache_of_everything_is_the_teacher_alongside(teacher: Student, student: Student, temperature: float) -> None:
    """Down to float16: over several steps, so that gradients agree as well."""
    loss = Loss(kl=1, hard_labels=0.1, temperature=temperature)
    cache = TeacherCache(teacher, text().tokens, teacher.spec.vocab)
    found = losses(teacher, student, loss, TRAINING, CachedTargets(cache, loss))
    assert found == pytest.approx(losses(teacher, student, loss), rel=2e-3)
    assert found[-1] < found[0]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_with_bfloat16_products_a_cached_top_k_is_learned_from_halves_and_nearly_as_well(
    teacher: Student, student: Student, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = Loss(kl=0.7, temperature=temperature)
    targets = CachedTargets(TeacherCache(teacher, text().tokens, 8), loss)
    exact = losses(teacher, student, loss, TRAINING, targets)
    monkeypatch.setattr(train, "in_bfloat16", lambda training, device: True)
    monkeypatch.setattr(targets_module, "sparse_kl", lambda *arguments: pytest.fail("halves were wanted"))
    found = losses(teacher, student, loss, TRAINING, targets)
    assert found != exact
    assert found == pytest.approx(exact, rel=5e-3)
    assert found[-1] < found[0]


@pytest.mark.parametrize("loss", [Loss(kl=1), Loss(kl=0.5, hidden=1.0)])
def test_pieces_and_checkpointing_change_memory_and_not_the_curve(
    teacher: Student, student: Student, loss: Loss
) -> None:
    whole = losses(teacher, student, loss)
    assert losses(teacher, student, loss, changed(checkpointing=True)) == pytest.approx(whole, rel=1e-6)
    if not loss.hidden:  # which is relative to the states of a piece
        assert losses(teacher, student, loss, changed(piece_tokens=LENGTH)) == pytest.approx(whole, rel=1e-5)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(teacher: Student) -> None:
    loss = Loss(kl=1, reverse_kl=1, jsd=1, hidden=1)
    run, model = trainer(teacher, teacher, loss)
    windows = order(0, 4, COUNT, 0)
    tokens, learned = torch.from_numpy(text().tokens[windows]).long(), torch.from_numpy(text().learned[windows, 1:])
    assert run._backward(windows, tokens, learned, int(learned.sum()), 0) < 1e-6
    assert max(float(value.grad.abs().max()) for value in model.parameters()) < 1e-6


def test_a_frozen_embedding_stays_and_all_else_learns_as_it_would(teacher: Student, student: Student) -> None:
    """AdamW's first step is the sign of the gradient times the rate, so it shows that of each value."""
    moved = {}
    for embedding in ("trained", "frozen"):
        made, model = trainer(teacher, student, Loss(), changed(embedding=embedding))
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        made.step(0)
        moved[embedding] = {name: value.detach() - before[name] for name, value in model.named_parameters()}
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    assert tied
    assert not moved["frozen"].pop("model.embed_tokens.weight").any()
    assert moved["trained"].pop("model.embed_tokens.weight").any()
    for name, values in moved["frozen"].items():
        assert values.any(), name
        torch.testing.assert_close(values, moved["trained"][name], rtol=1e-2, atol=1e-6)


def test_hidden_states_of_other_widths_come_closer(teacher: Student, student: Student) -> None:
    found = losses(teacher, student, Loss(kl=0, hidden=1), changed(tokens=48 * 4 * LENGTH, rate=1e-2), steps=24)
    assert found[-1] < 0.8 * found[0]


def test_the_held_out_divergence_is_that_of_whole_logits(teacher: Student, student: Student) -> None:
    held_out, total = text(seed=9), []
    models = [load_model(source).double() for source in (teacher, student)]
    for tokens, learned in zip(held_out.tokens, held_out.learned, strict=True):
        p, q = (torch.log_softmax(model(torch.tensor(tokens[None]).long()).logits[0].detach(), -1) for model in models)
        total += (p.exp() * (p - q)).sum(-1)[:-1][torch.from_numpy(learned[1:])].tolist()
    assert judge(teacher).divergence(load_model(student)) == pytest.approx(float(np.mean(total)), rel=1e-5)


def test_the_held_out_cross_entropy_is_that_of_whole_logits(student: Student) -> None:
    held_out, total = text(seed=9, count=150), []
    model = load_model(student).double()
    for tokens, learned in zip(held_out.tokens, held_out.learned, strict=True):
        q = torch.log_softmax(model(torch.tensor(tokens[None]).long()).logits[0].detach(), -1)
        total += [-float(q[place - 1, tokens[place]]) for place in range(1, LENGTH) if learned[place]]
    assert HeldOutWords(held_out).cross_entropy(load_model(student)) == pytest.approx(float(np.mean(total)), rel=1e-6)


def test_messages_name_the_judge(student: Student, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = trainer(student, student, Loss(kl=0, hard_labels=1), TRAINING, TextOnly())
    run.train(TrainerState(tmp_path / "state"), HeldOutWords(text(seed=9)).cross_entropy, "cross-entropy")
    said = capsys.readouterr().err
    assert "held-out cross-entropy" in said
    assert "divergence" not in said


def test_the_student_ends_in_its_best_state(teacher: Student, student: Student, tmp_path: Path) -> None:
    """With steps far too large the best is the start."""
    run, model = trainer(teacher, student, Loss(), changed(rate=1.0))
    held_out = judge(teacher)
    found = run.train(TrainerState(tmp_path / "state"), held_out.divergence)
    assert found.best.step == 0
    assert held_out.divergence(model) == found.best.held_out
    for name in student.names:
        np.testing.assert_array_equal(model.get_parameter(name).detach().numpy(), student.read(name))


def test_the_last_state_is_kept_where_that_is_asked_for(teacher: Student, student: Student, tmp_path: Path) -> None:
    best, last = (trainer(teacher, student, Loss(), changed(rate=1.0, keep=keep))[0] for keep in ("best", "last"))
    held_out = judge(teacher)
    best.train(TrainerState(tmp_path / "best"), held_out.divergence)
    found = last.train(TrainerState(tmp_path / "last"), held_out.divergence)
    assert held_out.divergence(best._student) == found.checks[0].held_out
    assert held_out.divergence(last._student) == found.checks[-1].held_out
    again, model = trainer(teacher, student, Loss(), changed(rate=1.0, keep="last"))
    again.train(TrainerState(tmp_path / "last"), held_out.divergence)
    assert held_out.divergence(model) == found.checks[-1].held_out


def test_patience_ends_a_run_that_gets_no_better(teacher: Student, student: Student, tmp_path: Path) -> None:
    run, _ = trainer(teacher, student, Loss(), changed(rate=1.0, checks=6, patience=2))
    found = run.train(TrainerState(tmp_path / "state"), judge(teacher).divergence)
    assert found.stale == 2
    assert found.steps == found.best.step + 2 < 6


def test_training_comes_closer_to_the_teacher_on_text_that_it_does_not_see(
    teacher: Student, student: Student, tmp_path: Path
) -> None:
    run, model = trainer(teacher, student, Loss(), changed(tokens=40 * 4 * LENGTH, rate=1e-2))
    found = run.train(TrainerState(tmp_path / "state"), judge(teacher).divergence)
    assert found.best.held_out < 0.9 * found.checks[0].held_out
    assert judge(teacher).divergence(model) == found.best.held_out


def test_a_run_that_goes_on_has_the_curve_of_one_that_never_stopped(
    teacher: Student, student: Student, tmp_path: Path
) -> None:
    loss = Loss(kl=1, hidden=0.5)
    whole, model = trainer(teacher, student, loss)
    wanted = whole.train(TrainerState(tmp_path / "whole"), judge(teacher).divergence)

    with pytest.raises(StoppedError):
        trainer(teacher, student, loss)[0].train(StopsAtTheSecondState(tmp_path / "cut"), judge(teacher).divergence)
    resumed, other = trainer(teacher, student, loss)
    found = resumed.train(TrainerState(tmp_path / "cut"), judge(teacher).divergence)
    assert (found.losses, found.checks) == (wanted.losses, wanted.checks)
    assert found.seconds > 0
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_damaged_state_is_refused_and_named(teacher: Student, student: Student, tmp_path: Path) -> None:
    trainer(teacher, student, Loss())[0].train(TrainerState(tmp_path), judge(teacher).divergence)
    (state,) = tmp_path.glob("step-*/state.safetensors")
    state.write_bytes(state.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"state\.safetensors: damaged training state .* remove"):
        trainer(teacher, student, Loss())[0].train(TrainerState(tmp_path), judge(teacher).divergence)

"""Training of all weights goes the way of plain AdamW, and from a saved state to the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import make_encoder_dir
from one_core import one_core  # noqa: F401

from edgepress.compress.classify.config import ClassifierSettings
from edgepress.compress.classify.fine_tune import FineTuning
from edgepress.compress.classify.forward import batch_of, encode_texts, logits_of
from edgepress.compress.classify.head import divergence
from edgepress.compress.classify.student import open_classifier
from edgepress.compress.distill.train import order
from edgepress.compress.distill.trainer_state import TrainerState

pytestmark = pytest.mark.usefixtures("one_core")
LABELS = ("a", "b")
TEXTS = [f"{first} {second} dog" for first in ("quick", "lazy", "fox", "five") for second in ("box", "jugs", "over")]
TARGETS = np.random.default_rng(0).dirichlet([1, 1], len(TEXTS))
SETTINGS = ClassifierSettings(
    epochs=6, batch=4, piece=2, rate=1e-3, checks=3, save_steps=4, precision="float32", patience=0, weight_decay=0.1
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder_dir("bert", tmp_path_factory.mktemp("bert") / "student")


def opened(directory: Path, *, dropout: bool = True) -> tuple[Any, list[list[int]]]:
    student = open_classifier(str(directory), LABELS, 0)
    if not dropout:
        for module in student.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        student.model.config.attention_probs_dropout_prob = 0.0
    return student, encode_texts(student, TEXTS, 16)


def test_a_step_is_one_of_adamw_on_the_mean_cross_entropy(directory: Path) -> None:
    student, tokens = opened(directory, dropout=False)
    other, _ = opened(directory, dropout=False)
    training = FineTuning(student, tokens, TARGETS, SETTINGS)
    parameters = dict(other.model.named_parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [value for value in parameters.values() if value.dim() > 1], "weight_decay": 0.1},
            {"params": [value for value in parameters.values() if value.dim() == 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.999),
    )
    steps = training.steps
    assert steps == 18
    warm = round(0.1 * steps)
    for number in range(4):
        places = order(number, 4, len(TEXTS), 0)
        logits = other.model(**batch_of(other, [tokens[place] for place in places])).logits
        odds = torch.log_softmax(logits, -1)
        loss = -(torch.tensor(TARGETS[places], dtype=torch.float32) * odds).sum(1).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        share = (number + 1) / warm if number < warm else 0.5 * (1 + np.cos(np.pi * (number - warm) / (steps - warm)))
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * share
        optimizer.step()
        assert training.step(number) == pytest.approx(float(loss.detach()), abs=2e-5)
    for name, value in student.model.named_parameters():
        torch.testing.assert_close(value, parameters[name], atol=2e-4, rtol=1e-3)


class KilledError(Exception):
    """The process ends here."""


def test_a_run_that_is_killed_ends_in_the_same_bits(directory: Path, tmp_path: Path) -> None:
    def run(state: Path, kill_at: int | None) -> tuple[Any, dict[str, torch.Tensor]]:
        student, tokens = opened(directory)
        training = FineTuning(student, tokens, TARGETS, SETTINGS)
        if kill_at is not None:
            step = training.step

            def dying(number: int) -> float:
                if number == kill_at:
                    raise KilledError
                return step(number)

            training.step = dying  # type: ignore[method-assign]
        done = training.train(TrainerState(state), lambda: divergence(logits_of(student, tokens), TARGETS))
        return done, {name: value.detach().clone() for name, value in student.model.named_parameters()}

    whole, wanted = run(tmp_path / "whole", None)
    for kill_at in (3, 10):
        with pytest.raises(KilledError):
            run(tmp_path / f"killed-{kill_at}", kill_at)
        done, found = run(tmp_path / f"killed-{kill_at}", None)
        assert done.losses == whole.losses
        assert done.checks == whole.checks
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_it_learns_what_it_is_given(directory: Path, tmp_path: Path) -> None:
    student, tokens = opened(directory, dropout=False)
    settings = ClassifierSettings(epochs=120, batch=6, rate=1e-3, checks=3, precision="float32", weight_decay=0.0)
    training = FineTuning(student, tokens, TARGETS, settings)
    run = training.train(TrainerState(tmp_path / "state"), lambda: divergence(logits_of(student, tokens), TARGETS))
    assert run.best.held_out < 0.5 * run.checks[0].held_out
    assert divergence(logits_of(student, tokens), TARGETS) == run.best.held_out


def test_it_stops_when_checks_get_no_better(directory: Path, tmp_path: Path) -> None:
    student, tokens = opened(directory)
    training = FineTuning(student, tokens, TARGETS, ClassifierSettings(epochs=9, batch=4, checks=27, patience=2))
    found = iter([1.0, 0.5, 0.6, 0.7, 0.1])
    run = training.train(TrainerState(tmp_path / "state"), lambda: next(found))
    assert run.steps == 3
    assert run.best.held_out == 0.5


@pytest.mark.parametrize(("texts", "steps"), [(3, 6), (4, 6), (40, 60)])
def test_every_text_is_seen_once_an_epoch_also_where_there_are_fewer_than_a_batch(texts: int, steps: int) -> None:
    assert SETTINGS.steps(texts) == steps
    assert steps * SETTINGS.texts_in_step(texts) == SETTINGS.epochs * texts

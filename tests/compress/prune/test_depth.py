"""Layers are dropped by the divergence that their loss causes, and nothing else changes."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from dropped_layers import WINDOWS, divergence, logits, without
from tiny_models import make_model_dir
from transformers import AutoModelForCausalLM

from edgepress.compress.prune.choose_layers import block_influence, choose_layers
from edgepress.compress.prune.depth import drop_layers
from edgepress.compress.prune.repair import repair
from edgepress.compress.student.checkpoint import CheckpointStudent
from edgepress.compress.student.open import open_student
from edgepress.errors import InputError
from edgepress.runtime.torch_reference import load_model


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_dir("llama", tmp_path_factory.mktemp("deep") / "student", num_hidden_layers=4)


def test_the_layer_of_least_divergence_goes(deep: Path, tmp_path: Path) -> None:
    student = open_student(str(deep))
    original = logits(without(deep, ()))
    costs = {gone: divergence(original, logits(without(deep, gone))) for gone in combinations(range(4), 1)}
    assert tuple(choose_layers(student, 1, WINDOWS)) == min(costs, key=lambda gone: costs[gone])


def test_what_is_written_is_the_model_without_them(deep: Path, tmp_path: Path) -> None:
    drop_layers(open_student(str(deep)), [1, 2], tmp_path, name="Tiny")
    found = CheckpointStudent(tmp_path)
    assert found.spec.depth == 2
    torch.testing.assert_close(logits(load_model(found)), logits(without(deep, (1, 2))))
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    torch.testing.assert_close(logits(reloaded), logits(without(deep, (1, 2))))


def test_influence_is_one_less_the_cosine_of_what_goes_in_and_out(deep: Path) -> None:
    model = without(deep, ())
    with torch.inference_mode():
        states = model(torch.from_numpy(WINDOWS.astype(np.int64)), output_hidden_states=True).hidden_states
    found = block_influence(open_student(str(deep)), WINDOWS)
    for index in range(3):  # the last state is normalised
        cosine = torch.cosine_similarity(states[index].double(), states[index + 1].double(), dim=-1).mean()
        assert found[index] == pytest.approx(1 - float(cosine), abs=1e-5)
    pairs = block_influence(open_student(str(deep)), WINDOWS, 2)
    assert len(pairs) == 3
    for index in range(2):
        cosine = torch.cosine_similarity(states[index].double(), states[index + 2].double(), dim=-1).mean()
        assert pairs[index] == pytest.approx(1 - float(cosine), abs=1e-5)


@pytest.mark.parametrize("drop", [1, 2])
def test_proposals_are_judged_as_they_are_repaired(drop: int, deep: Path, tmp_path: Path) -> None:
    """The best of one by one and of the runs of neighbours, by this test's own divergence; what was tried is gone."""
    student, fit = open_student(str(deep)), np.random.default_rng(1).integers(4, 300, (64, 32)).astype(np.int32)
    windows = np.concatenate([WINDOWS.repeat(16, axis=0), fit])  # 2,048 tokens to judge by
    chosen = choose_layers(student, drop, windows, tried_in=tmp_path / "tried")
    assert not (tmp_path / "tried").exists()
    original, costs = logits(without(deep, ())), {}
    runs = [tuple(range(start, start + drop)) for start in range(4 - drop + 1)]
    for gone in {*runs, tuple(choose_layers(student, drop, windows))}:
        (tmp_path / f"p{gone}").mkdir()
        (tmp_path / f"r{gone}").mkdir()
        drop_layers(student, list(gone), tmp_path / f"p{gone}", name="Tiny")
        repair(student, tmp_path / f"p{gone}", fit, tmp_path / f"r{gone}", name="Tiny")
        costs[gone] = divergence(original, logits(load_model(CheckpointStudent(tmp_path / f"r{gone}"))))
    assert costs[tuple(chosen)] == min(costs.values())


def test_a_model_needs_a_layer(deep: Path) -> None:
    with pytest.raises(InputError, match="at least one has to stay"):
        choose_layers(open_student(str(deep)), 4, WINDOWS)

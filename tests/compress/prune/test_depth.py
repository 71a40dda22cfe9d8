"""Layers are dropped by the divergence that their loss causes, and nothing else changes."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from dropped_layers import WINDOWS, divergence, logits, without
from tiny_models import make_model_dir
from transformers import AutoModelForCausalLM

from edgepress.compress.prune.choose_layers import block_influence, choose_layers, judges_and_fit
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


@pytest.mark.parametrize(("samples", "judging", "fitting"), [(40, 10, 30), (2000, 64, 192), (3, 1, 2)])
def test_what_judges_is_from_all_over_the_text_and_repairs_nothing(samples: int, judging: int, fitting: int) -> None:
    judged, fitted = judges_and_fit(np.arange(samples * 32, dtype=np.int32).reshape(samples, 32))
    assert (len(judged), len(fitted)) == (judging, fitting)
    assert not set(judged[:, 0].tolist()) & set(fitted[:, 0].tolist())
    assert max(fitted[-1, 0], judged[-1, 0]) // 32 >= samples - 2
    assert judging == 1 or judged[-1, 0] // 32 == samples - 1


def test_a_single_window_has_to_be_both() -> None:
    judged, fitted = judges_and_fit(WINDOWS[:1])
    assert np.array_equal(judged, WINDOWS[:1]) and np.array_equal(fitted, WINDOWS[:1])


@pytest.mark.parametrize("drop", [1, 2])
def test_the_likeliest_are_tried_and_judged_as_they_are_repaired(
    drop: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of eight layers, the best of one by one and of the runs of neighbours of least influence, by this test's own
    divergence on text that repaired nothing; what was tried is gone.
    """
    directory = make_model_dir("llama", tmp_path / "student", num_hidden_layers=8)
    student, windows = (
        open_student(str(directory)),
        np.random.default_rng(1).integers(4, 300, (96, 32)).astype(np.int32),
    )
    chosen = choose_layers(student, drop, windows, tried_in=tmp_path / "tried")
    tried = set(re.findall(r"without ([\d, ]+), repaired", capsys.readouterr().err))
    assert not (tmp_path / "tried").exists()
    judged, fit = judges_and_fit(windows)
    runs = block_influence(student, judged, drop)
    likeliest = sorted(range(len(runs)), key=lambda start: runs[start])[: 4 if drop == 1 else 3]
    proposals = {tuple(choose_layers(student, drop, judged)), *(tuple(range(i, i + drop)) for i in likeliest)}
    assert {tuple(map(int, each.split(", "))) for each in tried} == proposals
    costs = {}
    for gone in proposals:
        (tmp_path / f"p{gone}").mkdir()
        (tmp_path / f"r{gone}").mkdir()
        drop_layers(student, list(gone), tmp_path / f"p{gone}", name="Tiny")
        repair(student, tmp_path / f"p{gone}", fit, tmp_path / f"r{gone}", name="Tiny")
        left = load_model(CheckpointStudent(tmp_path / f"r{gone}"))
        costs[gone] = divergence(logits(without(directory, ()), judged), logits(left, judged))
    assert costs[tuple(chosen)] == min(costs.values())


def test_one_by_one_the_likeliest_are_tried(tmp_path: Path) -> None:
    """Of eight layers, the four of least influence; the one of least divergence goes, and again without it."""
    directory = make_model_dir("llama", tmp_path / "student", num_hidden_layers=8, seed=3)
    influence = block_influence(open_student(str(directory)), WINDOWS)
    gone: tuple[int, ...] = ()
    original = logits(without(directory, ()))
    for _ in range(3):
        left = sorted(set(range(8)) - set(gone), key=lambda index: influence[index])[:4]
        gone = min(((*gone, i) for i in left), key=lambda each: divergence(original, logits(without(directory, each))))
        assert choose_layers(open_student(str(directory)), len(gone), WINDOWS) == sorted(gone)


def test_a_model_needs_a_layer(deep: Path) -> None:
    with pytest.raises(InputError, match="at least one has to stay"):
        choose_layers(open_student(str(deep)), 4, WINDOWS)

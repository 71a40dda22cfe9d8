"""What the search believes about a model, against whole-model computations by transformers in float64."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from edgepress.artifact.families import EMBEDDING, FINAL_NORM, LINEARS, layer_name
from edgepress.artifact.quantized import QuantizedTensor
from edgepress.compress.quantize.gptaq.solve import InputSolver
from edgepress.compress.search.divergence import Divergence
from edgepress.compress.search.errors import ErrorTable, measure_errors
from edgepress.compress.search.fisher import fisher_costs
from edgepress.compress.student.open import open_student

WINDOWS = np.random.default_rng(0).integers(4, 300, (6, 40)).astype(np.int32)
Floats = NDArray[np.float32]


def log_probabilities(directory: Path, changes: dict[str, Floats]) -> torch.Tensor:
    """Of the whole model with some tensors exchanged, float64, (tokens, vocab)."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    for name, values in changes.items():
        model.get_parameter(name).data = torch.from_numpy(values)
    with torch.inference_mode():
        logits = model.double()(torch.from_numpy(WINDOWS.astype(np.int64))).logits
    return torch.log_softmax(logits.flatten(0, 1), -1)


def test_the_divergence_is_that_of_the_whole_models(family_dir: Path) -> None:
    student = open_student(str(family_dir))
    rng = np.random.default_rng(1)
    names = [EMBEDDING, FINAL_NORM, layer_name(0, "self_attn.v_proj"), layer_name(1, "mlp.down_proj")]
    names.append(layer_name(1, "input_layernorm"))
    changes = {name: student.read(name) + rng.normal(0, 0.02, student.shape(name)).astype(np.float32) for name in names}
    found = Divergence(student, WINDOWS).per_token(changes.get)
    before, after = log_probabilities(family_dir, {}), log_probabilities(family_dir, changes)
    expected = (before.exp() * (before - after)).sum(-1).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
    assert Divergence(student, WINDOWS).of(lambda _name, values: values) == pytest.approx(0, abs=1e-9)


@cache
def expected_costs(directory: Path) -> tuple[list[dict[str, float]], Divergence]:
    """Of three draws of the labels, and the model's divergence; the same for all parts."""
    student = open_student(str(directory))
    return [fisher_costs(student, WINDOWS, seed) for seed in range(3)], Divergence(student, WINDOWS)


# Attention averages the values' errors over tokens, which the estimate takes for independent: it is too low there.
@pytest.mark.parametrize(
    ("part", "tolerance"),
    [("self_attn.v_proj", 0.65), ("self_attn.o_proj", 0.45), ("mlp.up_proj", 0.45), ("mlp.down_proj", 0.45)],
)
def test_the_fisher_cost_predicts_what_random_errors_do(family_dir: Path, part: str, tolerance: float) -> None:
    """Errors as rounding makes them, independent from row to row, each row's in proportion to its output."""
    name = layer_name(1, part)
    weight = open_student(str(family_dir)).read(name)
    costs, divergence = expected_costs(family_dir)
    cost, rng, relative = np.mean([found[name] for found in costs]), np.random.default_rng(2), 1e-4
    measured = []
    for _ in range(4):
        noise = rng.standard_normal(weight.shape) * np.sqrt(relative * (weight**2).mean(axis=1, keepdims=True))
        measured.append(divergence.of({name: weight + noise.astype(np.float32)}.get))
    assert cost * relative == pytest.approx(np.mean(measured), rel=tolerance)


def test_the_cost_does_not_depend_on_how_the_windows_are_batched(
    llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = open_student(str(llama_dir))
    whole = fisher_costs(student, WINDOWS, 0)
    assert whole.keys() == {layer_name(i, part) for i in range(2) for part in LINEARS.values()}
    monkeypatch.setattr("edgepress.compress.calibrate.skeleton.TOKENS_PER_BATCH", 80)
    for name, cost in fisher_costs(student, WINDOWS, 0).items():
        # Other labels are drawn, so the estimates differ by their own noise.
        assert cost == pytest.approx(whole[name], rel=0.5)


def test_errors_fall_with_bits_and_stand_ins_have_the_size_of_the_real_ones(llama_dir: Path, tmp_path: Path) -> None:
    student = open_student(str(llama_dir))
    name = layer_name(0, "mlp.gate_proj")
    table = ErrorTable(tmp_path, "q4_0")
    measure_errors(student, WINDOWS, {name: ("q4_0", "q5_0", "q8_0")}, table)
    found = table.errors[name]
    assert found["q4_0"] > 3 * found["q5_0"] > 30 * found["q8_0"] > 0
    weight = student.read(name)
    base = table.perturbed(name, weight, "q4_0")
    finer = table.perturbed(name, weight, "q5_0")
    assert np.square(finer - weight).sum() / np.square(base - weight).sum() == pytest.approx(
        found["q5_0"] / found["q4_0"], rel=1e-2
    )


def test_the_base_format_stands_for_itself(llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student, name = open_student(str(llama_dir)), layer_name(1, "self_attn.q_proj")
    solved: list[Floats] = []
    original = InputSolver.trial

    def spy(self: InputSolver, weight: Floats, format: str) -> QuantizedTensor:
        tensor = original(self, weight, format)
        solved.append(tensor.dequantize())
        return tensor

    monkeypatch.setattr(InputSolver, "trial", spy)
    table = ErrorTable(tmp_path, "q4_0")
    measure_errors(student, WINDOWS, {name: ("q4_0", "q8_0")}, table)
    np.testing.assert_allclose(table.perturbed(name, student.read(name), "q4_0"), solved[-1], atol=2e-5)

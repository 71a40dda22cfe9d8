"""Smoothing changes no logit, and shares the difficulty out as the strength says."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_models import make_model_dir
from torch import nn

from edgepress.artifact.families import is_matrix
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.inputs import input_maxima
from edgepress.compress.quantize.folding import FoldedModel
from edgepress.compress.quantize.smooth import smooth, smoothing_factors
from edgepress.compress.student.open import open_student
from edgepress.runtime.torch_reference import load_model

Floats = NDArray[np.float32]
WINDOWS = np.random.default_rng(0).integers(4, 300, (3, 40)).astype(np.int32)
ALONE = ("q_proj", "gate_proj", "down_proj")  # the first of those that share an input, and one that does not


@lru_cache
def maxima(directory: Path) -> dict[str, Floats]:
    return input_maxima(open_student(str(directory)), WINDOWS)


def smoothed(directory: Path, strength: float) -> tuple[WeightSource, FoldedModel]:
    student = open_student(str(directory))
    linears = frozenset(name for name in student.names if name.endswith("_proj.weight"))
    return student, smooth(student, maxima(directory), linears, strength)


def run(source: WeightSource, hook: Callable[[str, torch.Tensor], None] | None = None) -> NDArray[np.float64]:
    """The logits by transformers in float64; ``hook`` sees the input of every linear."""
    model: Any = load_model(source).double()
    if hook is not None:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                module.register_forward_pre_hook(lambda _module, inputs, name=name: hook(name, inputs[0]))
    with torch.inference_mode():
        logits: NDArray[np.float64] = model(torch.from_numpy(WINDOWS.astype(np.int64))).logits.numpy()
    return logits


def test_the_factors_are_the_papers() -> None:
    inputs, weights = np.asarray([4.0, 100.0, 0.5], np.float32), np.asarray([1.0, 0.25, 2.0], np.float32)
    for strength in (0.25, 0.5, 0.8, 1.0):
        wanted = [float(x) ** strength / float(w) ** (1 - strength) for x, w in zip(inputs, weights, strict=True)]
        np.testing.assert_allclose(smoothing_factors(inputs, weights, strength), wanted, rtol=1e-12)


def test_silent_features_unread_features_and_strength_zero_are_left_alone() -> None:
    inputs, weights = np.asarray([0.0, 3.0, 5.0], np.float32), np.asarray([2.0, 0.0, 0.1], np.float32)
    assert smoothing_factors(inputs, weights, 0.5).tolist()[:2] == [1, 1]
    assert smoothing_factors(inputs, weights, 0.0).tolist() == [1, 1, 1]


@pytest.mark.parametrize("strength", [0.5, 0.8])
def test_the_logits_stay(strength: float, family_dir: Path) -> None:
    student, model = smoothed(family_dir, strength)
    changed = [name for name in student.names if not np.array_equal(student.read(name), model.read(name))]
    assert {name for name in student.names if name.endswith("_proj.weight")} <= set(changed)
    before = run(student)
    np.testing.assert_allclose(run(model), before, atol=2e-5 * np.abs(before).max())


def test_the_logits_stay_with_biases_everywhere(tmp_path: Path) -> None:
    student, model = smoothed(make_model_dir("llama", tmp_path / "m", attention_bias=True, mlp_bias=True), 0.5)
    before = run(student)
    np.testing.assert_allclose(run(model), before, atol=2e-5 * np.abs(before).max())


def test_strength_zero_is_the_model_itself(family_dir: Path) -> None:
    student, model = smoothed(family_dir, 0.0)
    for name in student.names:
        np.testing.assert_allclose(model.read(name), student.read(name), rtol=1e-6, atol=1e-7)


def test_at_one_half_inputs_and_weights_are_equally_loud(family_dir: Path) -> None:
    """max|X_j| = max|W_j| for every feature: measured on the smoothed model by transformers."""
    _, model = smoothed(family_dir, 0.5)
    loudest: dict[str, Floats] = {}

    def record(name: str, inputs: torch.Tensor) -> None:
        loudest[name] = inputs.abs().flatten(0, -2).amax(0).numpy()

    run(model, record)
    sharing = {"q_proj": ("q_proj", "k_proj", "v_proj"), "gate_proj": ("gate_proj", "up_proj"), "down_proj": ()}
    for name, inputs in loudest.items():
        kind = name.split(".")[-1]
        if kind in ALONE:
            linears = [name.replace(kind, other) for other in sharing[kind] or (kind,)]
            heaviest = np.max([np.abs(model.read(f"{linear}.weight")).max(axis=0) for linear in linears], axis=0)
            np.testing.assert_allclose(inputs, heaviest, rtol=1e-3)


def test_the_query_heads_of_a_group_share_the_factors_of_its_values(tmp_path: Path) -> None:
    student = open_student(str(make_model_dir("qwen3", tmp_path / "m")))
    layer, size = "model.layers.0.self_attn", student.spec.head_dim
    v, o = f"{layer}.v_proj.weight", f"{layer}.o_proj.weight"
    model = smooth(student, input_maxima(student, WINDOWS), frozenset({o}), 0.5)
    rows = (student.read(v) / model.read(v)).mean(axis=1).reshape(-1, size)
    columns = (model.read(o) / student.read(o)).mean(axis=0).reshape(-1, size)
    heads = student.spec.layers[0].heads // student.spec.layers[0].kv_heads
    for head, factors in enumerate(columns):
        np.testing.assert_allclose(factors, rows[head // heads], rtol=1e-4)


def test_only_inputs_that_are_rounded_are_smoothed(llama_dir: Path) -> None:
    student = open_student(str(llama_dir))
    chosen = frozenset({"model.layers.1.mlp.down_proj.weight"})
    model = smooth(student, maxima(llama_dir), chosen, 0.5)
    changed = {name for name in student.names if not np.array_equal(student.read(name), model.read(name))}
    assert changed == {*chosen, "model.layers.1.mlp.up_proj.weight"}


def test_another_strength_is_another_model(llama_dir: Path) -> None:
    digests = {smoothed(llama_dir, strength)[1].digest() for strength in (0.0, 0.5, 0.8)}
    assert len(digests) == 3
    assert smoothed(llama_dir, 0.5)[1].digest() in digests


def test_embeddings_and_the_head_are_left_alone(family_dir: Path) -> None:
    student, model = smoothed(family_dir, 0.5)
    for name in student.names:
        if is_matrix(name) and not name.endswith("_proj.weight"):
            np.testing.assert_array_equal(model.read(name), student.read(name))

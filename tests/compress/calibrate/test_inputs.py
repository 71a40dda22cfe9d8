"""Maxima and histograms are those of the inputs that the whole model computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from edgepress.compress.calibrate.inputs import BINS, input_histograms, input_maxima
from edgepress.compress.student.open import open_student

WINDOWS = np.random.default_rng(1).integers(4, 300, (50, 48)).astype(np.int32)  # more than one batch


def inputs_of_the_whole_model(directory: Path) -> dict[str, NDArray[np.float64]]:
    """(tokens, columns) by the weight's name."""
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    seen: dict[str, NDArray[np.float64]] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            module.register_forward_pre_hook(
                lambda _module, inputs, name=name: seen.__setitem__(
                    f"{name}.weight", inputs[0].flatten(0, -2).double().numpy()
                )
            )
    with torch.inference_mode():
        model(torch.from_numpy(WINDOWS.astype(np.int64)))
    return seen


def test_maxima_are_those_of_the_whole_model(family_dir: Path) -> None:
    found, expected = input_maxima(open_student(str(family_dir)), WINDOWS), inputs_of_the_whole_model(family_dir)
    assert found.keys() == expected.keys()
    for name, inputs in expected.items():
        np.testing.assert_allclose(found[name], np.abs(inputs).max(axis=0), rtol=1e-3, atol=1e-5)


def test_histograms_count_every_value_by_the_weight_of_its_feature(llama_dir: Path) -> None:
    expected = inputs_of_the_whole_model(llama_dir)
    rng = np.random.default_rng(2)
    ends = {name: float(np.abs(inputs).max()) for name, inputs in expected.items()}
    weights = {name: rng.uniform(size=inputs.shape[1:]).astype(np.float32) for name, inputs in expected.items()}
    for part in ("k_proj", "v_proj", "up_proj"):  # what shares an input counts it alike
        for name in (name for name in weights if part in name):
            first = name.replace("k_proj", "q_proj").replace("v_proj", "q_proj").replace("up_proj", "gate_proj")
            weights[name] = weights[first]
    found = input_histograms(open_student(str(llama_dir)), WINDOWS, ends, weights)
    for name, inputs in expected.items():
        counted = np.broadcast_to(weights[name], inputs.shape).ravel()
        wanted, _ = np.histogram(np.abs(inputs).ravel(), 64, (0, ends[name]), weights=counted)
        np.testing.assert_allclose(found[name].reshape(64, BINS // 64).sum(axis=1), wanted, rtol=1e-3, atol=2.0)
        np.testing.assert_allclose(found[name].sum(), counted.sum(), rtol=1e-5)

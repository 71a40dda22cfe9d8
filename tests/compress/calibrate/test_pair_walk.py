"""Walking two models side by side sees what each of them sees as a whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from edgepress.artifact.families import LINEAR_GROUPS, layer_name
from edgepress.compress.calibrate import skeleton
from edgepress.compress.calibrate.pair_walk import PairWalk
from edgepress.compress.student.open import open_student

WINDOWS = np.random.default_rng(0).integers(4, 300, (5, 48)).astype(np.int32)


def inputs_of(model: torch.nn.Module, names: list[str]) -> dict[str, np.ndarray]:
    """The input of each linear in a whole model's forward pass, float64, (tokens, columns)."""
    seen: dict[str, np.ndarray] = {}
    handles = []
    for name in names:
        hook = lambda _module, inputs, name=name: seen.__setitem__(name, inputs[0].double().flatten(0, 1).numpy())  # noqa: E731
        module = model.get_submodule(name.removesuffix(".weight"))
        handles.append(module.register_forward_pre_hook(hook))
    with torch.inference_mode():
        model(torch.from_numpy(WINDOWS.astype(np.int64)))
    for handle in handles:
        handle.remove()
    return seen


def expected(inputs: np.ndarray, original: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weighted = inputs / (inputs**2).mean(axis=1, keepdims=True)
    return weighted.T @ inputs / len(inputs), (original - inputs).T @ weighted / len(inputs)


@pytest.mark.parametrize("tokens_per_batch", [96, 2048])
def test_a_group_sees_everything_before_it_replaced_and_nothing_after(
    family_dir: Path, tokens_per_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skeleton, "TOKENS_PER_BATCH", tokens_per_batch)
    student = open_student(str(family_dir))
    original = AutoModelForCausalLM.from_pretrained(family_dir, dtype=torch.float32)
    pressed = AutoModelForCausalLM.from_pretrained(family_dir, dtype=torch.float32)
    rng = np.random.default_rng(1)
    embedding = student.read("model.embed_tokens.weight") * np.float32(1.02)
    pressed.get_submodule("model.embed_tokens").weight.data = torch.from_numpy(embedding)
    if not student.spec.tied:
        pressed.lm_head.weight.data = original.lm_head.weight.data.clone()
    heads = [layer_name(i, group[0]) for i in range(student.spec.depth) for group in LINEAR_GROUPS]
    before = inputs_of(original, [*heads, "lm_head.weight"])
    walk = PairWalk(student, WINDOWS, embedding)
    for visit in walk.layers():
        for group in LINEAR_GROUPS:
            first = layer_name(visit.index, group[0])
            found = visit.statistics(first)
            hessian, drift = expected(inputs_of(pressed, [first])[first], before[first])
            np.testing.assert_allclose(found.hessian.numpy(), hessian, rtol=1e-3, atol=1e-5)
            assert found.drift is not None
            np.testing.assert_allclose(found.drift.numpy(), drift, rtol=1e-3, atol=1e-5)
            for part in group:
                name = layer_name(visit.index, part)
                values = visit.tensors[name] * rng.uniform(0.9, 1.1, visit.tensors[name].shape).astype(np.float32)
                visit.replace(name, values)
                pressed.get_submodule(name.removesuffix(".weight")).weight.data = torch.from_numpy(values)
    found = walk.head_statistics()
    hessian, _ = expected(inputs_of(pressed, ["lm_head.weight"])["lm_head.weight"], before["lm_head.weight"])
    np.testing.assert_allclose(found.hessian.numpy(), hessian, rtol=1e-3, atol=1e-5)

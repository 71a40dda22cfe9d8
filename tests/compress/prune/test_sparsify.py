"""Each matrix is solved for what the sparse ones before it leave, and makes up for them: by transformers in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sparse_by_hand import sparse_by_hand
from tiny_models import make_model_dir
from torch import nn
from transformers import AutoModelForCausalLM

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.compress.prune.config import Sparsify
from edgepress.compress.prune.sparse_matrix import Pattern
from edgepress.compress.prune.sparsify import write_sparse
from edgepress.compress.student.open import open_student

WINDOWS = np.random.default_rng(0).integers(4, 300, (16, 48)).astype(np.int32)
DAMPING, STRENGTH = 0.05, 0.5
PATTERN = Pattern(zeros=2, of=4)


def inputs(model: nn.Module, part: str) -> np.ndarray:
    """What a linear reads, (tokens, columns)."""
    seen: list[torch.Tensor] = []
    handle = model.get_submodule(part).register_forward_pre_hook(lambda _m, i: seen.append(i[0]))
    with torch.inference_mode():
        model(torch.from_numpy(WINDOWS.astype(np.int64)))
    handle.remove()
    found: np.ndarray = seen[0].flatten(0, 1).numpy()
    return found


@pytest.mark.parametrize("part", ["model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj"])
def test_a_matrix_answers_for_those_before_it(part: str, tmp_path: Path) -> None:
    directory = make_model_dir("llama", tmp_path / "student")
    (tmp_path / "sparse").mkdir()
    write_sparse(open_student(str(directory)), Sparsify(), WINDOWS, tmp_path / "sparse", name="Tiny")
    whole, left = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).eval()
        for path in (directory, tmp_path / "sparse")
    )
    original, x = inputs(whole, part), inputs(left, part)
    weights = 1 / np.square(x).mean(1, keepdims=True)
    hessian, drift = (x * weights).T @ x / len(x), ((original - x) * weights).T @ x / len(x)
    hessian += DAMPING * np.trace(hessian) / len(hessian) * np.eye(len(hessian))
    weight = whole.get_submodule(part).weight.detach().numpy()
    target = weight + STRENGTH * np.linalg.solve(hessian, (weight @ drift).T).T
    expected = sparse_by_hand(target.astype(np.float32), hessian, PATTERN)
    found = Checkpoint(tmp_path / "sparse").read(f"{part}.weight")
    assert ((found == 0) == (expected == 0)).mean() > 0.97
    both = (found != 0) & (expected != 0)
    assert np.abs(found - expected)[both].mean() < 0.02 * np.abs(expected)[both].mean()
    # What was solved for the weights as they were, or for the original's inputs, is another matrix.
    other = sparse_by_hand(weight.astype(np.float32), hessian, PATTERN)
    assert np.abs(found - other)[both].mean() > 0.05 * np.abs(expected)[both].mean()

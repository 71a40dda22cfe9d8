"""What a layer is said to lose by its width: its output's error, tokens counting as the stream it adds to has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from repaired_by_hand import run
from tiny_models import make_model_dir

from edgepress.compress.prune.config import PruneFfn, PruneHeads
from edgepress.compress.prune.losses import layer_losses, least_units
from edgepress.compress.prune.obs import Units, removal_path
from edgepress.compress.student.open import open_student
from edgepress.runtime.torch_reference import load_model


@pytest.mark.parametrize("part", ["mlp.down_proj", "self_attn.o_proj"])
def test_the_losses_of_a_layer_are_those_of_its_path_over_weighted_tokens(part: str, tmp_path: Path) -> None:
    """By moments in float64 over transformers' layers; up to the factor that weighs one layer against the others."""
    source = make_model_dir("llama", tmp_path / "student", num_hidden_layers=2, num_attention_heads=8, head_dim=16)
    student, windows = open_student(str(source)), np.random.default_rng(3).integers(4, 300, (24, 40)).astype(np.int32)
    model, layers = load_model(student).double(), student.spec.layers
    if part == "mlp.down_proj":
        step: PruneFfn | PruneHeads = PruneFfn(keep=0.25)
        units = [Units(count=layer.ffn, step=32) for layer in layers]
    else:
        step = PruneHeads(keep=0.5)
        units = [
            Units(count=layer.heads, size=student.spec.head_dim, classes=layer.kv_heads, step=layer.kv_heads)
            for layer in layers
        ]
    least = [each.count // 2 for each in units]
    found = layer_losses(student, step, windows, least, intercept=False, seed=0)
    for index, (each, losses) in enumerate(zip(units, found, strict=True)):
        inputs, outputs, stream = run(model, index, (part,), windows)
        counted = stream if part == "mlp.down_proj" else stream - outputs
        weights = 1 / counted.square().mean(-1, keepdim=True)
        x = (inputs * weights.sqrt()).flatten(0, 1)
        weight = model.get_submodule(f"model.layers.{index}.{part}").weight.detach()
        path = removal_path(weight, x.T @ x / weights.sum(), each, each.count - least[index])
        np.testing.assert_allclose(np.array(losses) / losses[-1], np.array(path.losses) / path.losses[-1], rtol=1e-3)
        assert torch.tensor(losses).diff().gt(0).all()


@pytest.mark.parametrize(
    ("units", "keep", "trained", "kept"),
    [
        (Units(count=1536, step=32), 0.7, False, 512),  # of 537
        (Units(count=1536, step=32), 0.7, True, 608),  # of 614
        (Units(count=1536, step=32), 0.9, True, 608),
        (Units(count=1536, step=32), 0.5, True, 512),  # of 538
        (Units(count=1536, step=32), 0.01, True, 32),
        (Units(count=800, step=32), 0.4, True, 224),  # to the unit, which floating point falls short of
        (Units(count=9, size=64, classes=3, step=3), 0.67, False, 3),
    ],
)
def test_no_layer_gets_much_narrower_than_an_even_cut_or_if_trained_than_it_was(
    units: Units, keep: float, trained: bool, kept: int
) -> None:
    assert least_units(units, keep, trained=trained) == kept

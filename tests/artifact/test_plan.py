"""Plans: sizes of tensors in their formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoints import write_checkpoint
from ggml_oracle import FORMATS, ggml_quantize

from edgepress.artifact.plan import TensorPlan


@pytest.mark.parametrize("format", FORMATS)
def test_bytes_of_a_tensor_are_those_that_ggml_packs(format: str) -> None:
    plan = TensorPlan(name="x", shape=(5, 768), format=format)
    assert plan.values == 5 * 768
    assert plan.data_bytes == ggml_quantize(format, np.ones((5, 768), np.float32)).nbytes


@pytest.mark.parametrize(("format", "bytes_each"), [("f32", 4), ("f16", 2)])
def test_floats_take_their_width(format: str, bytes_each: int) -> None:
    assert TensorPlan(name="x", shape=(7,), format=format).data_bytes == 7 * bytes_each


def test_a_tied_head_is_no_parameter_of_its_own(family_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    plan = write_checkpoint(family_dir, tmp_path / "checkpoint", lambda _: "f32").plan()
    model = AutoModelForCausalLM.from_pretrained(family_dir)
    assert plan.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert plan.format("model.norm.weight") == "f32"

"""The reference is transformers' own model over the values that it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import write_checkpoint
from numpy.typing import NDArray

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import is_matrix
from edgepress.compress.student.open import open_student
from edgepress.errors import InputError
from edgepress.runtime.torch_reference import TorchSession, build_skeleton, load_model

TOKENS = [int(token) for token in np.random.default_rng(2).integers(4, 320, 60)]


@pytest.fixture(scope="module")
def checkpoint(family_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A 4-bit checkpoint of each family: its values differ from the student's."""
    out = tmp_path_factory.mktemp("reference") / "checkpoint"
    return write_checkpoint(family_dir, out, lambda name: "q4_0" if is_matrix(name) else "f32")


def theirs(directory: Path) -> NDArray[np.float32]:
    """Logits by transformers' own loader."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        return np.asarray(model(torch.tensor([TOKENS])).logits[0].numpy())


def test_a_checkpoints_logits_are_those_that_transformers_computes_from_it(checkpoint: Checkpoint) -> None:
    with TorchSession(checkpoint, threads=1) as session:
        np.testing.assert_allclose(session.prefill(TOKENS), theirs(checkpoint.directory), atol=2e-5)


def test_a_students_logits_are_those_that_transformers_computes_from_it(family_dir: Path) -> None:
    with TorchSession(open_student(str(family_dir)), threads=1) as session:
        np.testing.assert_allclose(session.prefill(TOKENS), theirs(family_dir), atol=2e-5)


def test_the_skeleton_holds_no_weights_and_the_loaded_model_all(checkpoint: Checkpoint) -> None:
    skeleton = build_skeleton(checkpoint)
    assert all(parameter.is_meta for parameter in skeleton.parameters())
    assert not any(buffer.is_meta for buffer in skeleton.buffers())
    loaded = dict(load_model(checkpoint).named_parameters())
    assert loaded.keys() == set(checkpoint.names)
    for name, parameter in loaded.items():
        np.testing.assert_array_equal(parameter.detach().numpy(), checkpoint.read(name))


def test_a_tensor_that_is_missing_is_named(llama_dir: Path) -> None:
    student = open_student(str(llama_dir))
    student.tensors.pop("model.layers.1.mlp.up_proj.weight")
    with pytest.raises(InputError, match=r"model\.layers\.1\.mlp\.up_proj\.weight: the weights lack this tensor"):
        TorchSession(student)


def test_the_cache_grows_with_the_tokens(llama_dir: Path) -> None:
    student = open_student(str(llama_dir))
    with TorchSession(student, threads=1) as session:
        assert session.memory().kv_cache_bytes == 0
        session.prefill(TOKENS)
        assert session.memory().kv_cache_bytes == 2 * 2 * 2 * 16 * 4 * len(
            TOKENS
        )  # sides, layers, heads, head, float32
        assert session.memory().weights_bytes == 4 * student.parameters

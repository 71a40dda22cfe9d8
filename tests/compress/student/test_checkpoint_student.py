"""A checkpoint that edgepress wrote, opened as a student."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from checkpoints import write_checkpoint

from edgepress.artifact.activations import write_activations
from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import is_matrix
from edgepress.compress.student.open import open_student
from edgepress.errors import InputError


@pytest.fixture
def run_dir(llama_dir: Path, tmp_path: Path) -> Path:
    """A run's output with a checkpoint inside, matrices in q4_0."""
    write_checkpoint(llama_dir, tmp_path / "run" / "checkpoint", lambda name: "q4_0" if is_matrix(name) else "f32")
    return tmp_path / "run"


def test_a_run_is_read_as_the_values_that_it_ships(run_dir: Path) -> None:
    checkpoint, student = Checkpoint(run_dir / "checkpoint"), open_student(str(run_dir))
    assert student.name == "Tiny Test"
    assert student.spec == checkpoint.spec
    assert set(student.names) == set(checkpoint.names)
    for name in student.names:
        np.testing.assert_array_equal(student.read(name), checkpoint.read(name))
        assert student.stored_types[name] == ("q4_0" if is_matrix(name) else "f32")
    assert student.digest() == checkpoint.digest() == open_student(str(run_dir / "checkpoint")).digest()
    assert "already compressed by edgepress (q4_0)" in student.notes[0]


def test_static_activations_that_a_student_does_not_have_are_told(run_dir: Path) -> None:
    assert len(open_student(str(run_dir)).notes) == 1
    write_activations(run_dir / "checkpoint", {"model.layers.0.mlp.up_proj.weight": 0.5})
    assert "rounded activations are left behind" in open_student(str(run_dir)).notes[1]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "damaged checkpoint"),
        ({"name": "x", "tensors": {}}, r"model\.embed_tokens\.weight .* is missing"),
        ({"name": "x", "tensors": {"model.embed_tokens.weight": {"format": "f32"}}}, "damaged checkpoint"),
        ({"name": "x", "tensors": [1, 2]}, "damaged checkpoint"),
    ],
)
def test_a_damaged_checkpoint_is_one_line(document: object, message: str, run_dir: Path) -> None:
    (run_dir / "checkpoint" / "tensors.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=message) as caught:
        open_student(str(run_dir))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_without_a_tokenizer_is_refused(run_dir: Path, tmp_path: Path) -> None:
    shutil.move(run_dir / "checkpoint" / "tokenizer.json", tmp_path)
    with pytest.raises(InputError, match="there is no tokenizer here"):
        open_student(str(run_dir))

"""A random student opens like any other, has the layers that were asked for and its template's shapes."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import pytest
from tiny_models import make_model_dir

from edgepress.benchmarks.peers.random_student import write_random_student, write_random_text
from edgepress.compress.student.open import open_student


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_a_random_student_has_the_asked_depth_and_the_templates_shapes(tmp_path: Path, family: str) -> None:
    template = open_student(str(make_model_dir(family, tmp_path / "template")))
    written = write_random_student(template, tmp_path / "deep", depth=3, seed=0)
    student = open_student(str(tmp_path / "deep"))
    assert student.spec.depth == 3
    assert written == 4 * sum(prod(student.shape(name)) for name in student.names)
    for name in student.names:
        assert student.shape(name) == template.shape(name.replace(".layers.2.", ".layers.0."))
        assert np.isfinite(student.read(name)).all()


def test_a_layer_is_the_same_at_any_depth_and_unlike_its_neighbour(tmp_path: Path) -> None:
    template = open_student(str(make_model_dir("llama", tmp_path / "template")))
    for depth in (2, 4):
        write_random_student(template, tmp_path / str(depth), depth=depth, seed=0)
    shallow, deep = (open_student(str(tmp_path / depth)) for depth in ("2", "4"))
    names = [f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1)]
    assert np.array_equal(shallow.read(names[1]), deep.read(names[1]))
    assert not np.array_equal(deep.read(names[0]), deep.read(names[1]))


def test_random_text_holds_the_tokens_that_were_asked_for(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    directory = make_model_dir("llama", tmp_path / "template")
    write_random_text(directory, tmp_path / "text", tokens=500, seed=0)
    text = (tmp_path / "text").read_text(encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    assert len(tokenizer.encode(text, add_special_tokens=False).ids) >= 500

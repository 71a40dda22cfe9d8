"""Measurements belong to the files that are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgepress.artifact.manifest import (
    Lineage,
    build_manifest,
    check_files,
    list_files,
    write_manifest,
)
from edgepress.artifact.plan import ModelPlan
from edgepress.compress.student.open import open_student
from edgepress.errors import InputError
from edgepress.pipeline.measure import text_windows
from edgepress.pipeline.remembered import forget_other_measurements


def test_what_an_earlier_recipe_measured_goes(tmp_path: Path) -> None:
    for name in ("quality-gguf", "latency-gguf", "quality-onnx", "samples"):
        (tmp_path / f"{name}.json").write_text("{}")
        (tmp_path / f".{name}.key").write_text("key")
    forget_other_measurements(tmp_path, {"quality-gguf"})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".quality-gguf.key", "quality-gguf.json"]


def test_a_file_that_is_not_the_listed_one_is_named(llama_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    weights = tmp_path / "checkpoint" / "weights.safetensors"
    weights.write_bytes(b"0123456789")
    student = open_student(str(llama_dir))
    plan = ModelPlan(name="x", spec=student.spec, config=student.config, tokenizer_dir=llama_dir, tensors=())
    lineage = Lineage(
        student="x",
        student_source="x",
        student_digest="",
        student_stored_types={},
        student_notes=(),
        recipe={},
        calibration_digest=None,
        tools={},
    )
    write_manifest(build_manifest(plan, lineage, (), list_files(tmp_path, ["checkpoint"])), tmp_path)
    check_files(tmp_path, "checkpoint")
    weights.write_bytes(b"0123456780")
    with pytest.raises(InputError, match=r"weights\.safetensors: is not the file that manifest\.json lists"):
        check_files(tmp_path, "checkpoint")


def test_windows_of_a_text_are_its_tokens_in_order(llama_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. " * 40, encoding="utf-8")
    text = text_windows(open_student(str(llama_dir)), (path,), 64, 16)
    assert text.windows.shape == (4, 16)
    assert not text.bos


def test_a_context_beyond_the_students_is_refused_with_both_numbers(llama_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="context 512 exceeds the student's 256 tokens"):
        text_windows(open_student(str(llama_dir)), (tmp_path / "any.txt",), 64, 512)

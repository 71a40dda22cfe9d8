"""export: a checkpoint's files, apart from the run that made it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from one_core import one_core  # noqa: F401
from pressing import BOTH, press, step
from tiny_models import make_model_dir

from edgepress.errors import InputError
from edgepress.pipeline.export import export

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def student_dir(llama_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(llama_dir, tmp_path / "student")


def test_an_export_alone_writes_the_bytes_of_the_whole_run(student_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    press(student_dir, out)
    for artifact in (out, out / "checkpoint"):
        again = tmp_path / f"again-{artifact.name}"
        export(artifact, BOTH, again)
        for target in BOTH:
            files = sorted(path.name for path in (again / target).iterdir())
            assert files == sorted(path.name for path in (out / target).iterdir())
            for name in files:
                assert (again / target / name).read_bytes() == (out / target / name).read_bytes(), name


def test_an_export_of_another_checkpoint_replaces_the_first(student_dir: Path, tmp_path: Path) -> None:
    for name, format in (("first", "q4_0"), ("second", "q8_0")):
        press(student_dir, tmp_path / name, step(solver="nearest", format=format), targets=())
        export(tmp_path / name, ("gguf",), tmp_path / "out")
    export(tmp_path / "second", ("gguf",), tmp_path / "fresh")
    made, wanted = (tmp_path / name / "gguf" / "model.gguf" for name in ("out", "fresh"))
    assert made.read_bytes() == wanted.read_bytes()


def test_an_export_beside_its_checkpoint_is_taken_over(student_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    press(student_dir, out, targets=())
    export(out, ("gguf",), out)
    assert (out / "gguf" / "model.gguf").is_file()
    assert (out / "checkpoint").is_dir()


def test_an_export_of_something_else_is_refused(student_dir: Path, tmp_path: Path) -> None:
    for place in (student_dir, tmp_path / "absent"):
        with pytest.raises(InputError, match="no checkpoint here; give the output of 'edgepress compress' or"):
            export(place, ("gguf",), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_that_cannot_be_is_refused_before_any_work(tmp_path: Path) -> None:
    student = make_model_dir("qwen3", tmp_path / "student", attention_bias=True)
    press(student, tmp_path / "out", step(solver="nearest"), targets=())
    with pytest.raises(InputError, match=r"o_proj\.bias"):
        export(tmp_path / "out", ("onnx", "gguf"), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()

"""compress and export: what is made, what is made again, and what is kept when something is wrong."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from one_core import one_core  # noqa: F401
from pressing import RECIPE, identities, made, press, step

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.compress.calibrate.config import Calibration
from edgepress.compress.student.open import open_student
from edgepress.errors import InputError, ParityError
from edgepress.export.gguf import layout
from edgepress.pipeline.targets import predict_files
from edgepress.recipe import Bench, ExportTarget, Recipe

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def student_dir(llama_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(llama_dir, tmp_path / "student")


def test_the_manifest_lists_every_file_with_its_hash(student_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = press(student_dir, out)
    listed = {entry.path: (entry.bytes, entry.sha256) for entry in manifest.files}
    on_disk = {
        path.relative_to(out).as_posix(): (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in out.rglob("*")
        if path.is_file() and ".edgepress" not in path.parts and path.name != "manifest.json"
    }
    assert listed == on_disk


def test_the_manifest_says_where_everything_comes_from(student_dir: Path, tmp_path: Path) -> None:
    manifest = press(student_dir, tmp_path / "out")
    student = open_student(str(student_dir))
    lineage = manifest.lineage
    assert (lineage.student, lineage.student_source) == ("student", str(student_dir))
    assert lineage.student_digest == student.digest()
    assert lineage.student_stored_types == {"F32": len(student.names)}
    assert msgspec.convert(lineage.recipe, Recipe) == RECIPE
    assert lineage.calibration_digest is not None
    assert {"edgepress", "torch", "numpy", "gguf", "onnx"} <= lineage.tools.keys()
    assert manifest.parameters == student.parameters
    formats = {tensor["name"]: tensor["format"] for tensor in manifest.tensors}
    checkpoint = Checkpoint(tmp_path / "out" / "checkpoint")
    assert formats == {name: checkpoint.format(name) for name in student.names}


def test_the_same_command_makes_nothing_again(
    student_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    first = press(student_dir, out)
    before = identities(out)
    capsys.readouterr()
    assert press(student_dir, out) == first
    assert identities(out) == before
    said = capsys.readouterr().err
    for part in ("checkpoint", "gguf", "onnx"):
        assert f"{part}: up to date" in said


def _with_other_weights(student: Path) -> Recipe:
    import numpy as np
    from safetensors.numpy import load_file, save_file

    tensors = load_file(student / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * np.float32(1.5)
    save_file(tensors, student / "model.safetensors", metadata={"format": "pt"})
    return RECIPE


CHANGES: dict[str, Callable[[Path], Recipe]] = {
    "the format": lambda _: step(format="q5_0"),
    "the embedding": lambda _: step(embedding="q4_0"),
    "a pattern": lambda _: step(formats={"*.ffn_down": "q8_0"}),
    "the solver": lambda _: step(solver="nearest"),
    "the seed of the text": lambda _: msgspec.structs.replace(
        RECIPE, calibration=Calibration(samples=2, length=16, seed=1)
    ),
    "the student": _with_other_weights,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_makes_everything_behind_it_again(change: str, student_dir: Path, tmp_path: Path) -> None:
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    press(student_dir, out)
    recipe = CHANGES[change](student_dir)
    manifest = press(student_dir, out, recipe)
    assert manifest.files == press(student_dir, fresh, recipe).files


def test_a_text_that_changed_makes_everything_again(student_dir: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    calibration = Calibration(self_generated=False, files=(str(text),), samples=2, length=16)
    recipe = msgspec.structs.replace(RECIPE, calibration=calibration)
    text.write_text("The quick brown fox jumps over the lazy dog. " * 20, encoding="utf-8")
    first = press(student_dir, tmp_path / "out", recipe)
    text.write_text("1984 12345 3.14159 return radius area naïve café! " * 20, encoding="utf-8")
    second = press(student_dir, tmp_path / "out", recipe)
    assert first.lineage.calibration_digest != second.lineage.calibration_digest
    assert first.files != second.files


def test_other_measurements_make_no_file_again(student_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    press(student_dir, out)
    before = identities(out)
    manifest = press(student_dir, out, msgspec.structs.replace(RECIPE, bench=Bench(prompt=8, generate=4)))
    assert identities(out) == before
    assert manifest.lineage.recipe["bench"]["prompt"] == 8


def test_an_export_of_an_earlier_checkpoint_does_not_outlive_it(student_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    press(student_dir, out)
    manifest = press(student_dir, out, step(format="q5_0"), targets=())
    assert {path.name for path in out.iterdir()} == {".edgepress", "checkpoint", "manifest.json"}
    assert {entry.path.partition("/")[0] for entry in manifest.files} == {"checkpoint"}


def test_a_target_that_is_added_leaves_the_others_alone(student_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    press(student_dir, out, targets=("gguf",))
    before = made(out, "checkpoint"), made(out, "gguf")
    press(student_dir, out)
    assert (made(out, "checkpoint"), made(out, "gguf")) == before
    assert (out / "onnx" / "model.onnx").is_file()


def test_a_damaged_file_is_made_again_as_it_was(student_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = press(student_dir, out)
    file = out / "gguf" / "model.gguf"
    file.write_bytes(file.read_bytes()[:-64])
    before = made(out, "onnx")
    assert press(student_dir, out) == first
    assert made(out, "onnx") == before


def test_a_foreign_directory_is_refused_before_any_work(student_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(InputError, match="was not written by edgepress"):
        press(student_dir, tmp_path / "out")
    assert not (tmp_path / "cache").exists()


def test_a_file_that_fails_the_gate_is_not_kept_and_the_rest_is(
    student_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer and the check of the integers share a mistake about the order of rows; the engine finds it."""
    out = tmp_path / "out"
    with monkeypatch.context() as mistaken:
        mistaken.setattr(layout, "_rotated_heads", lambda source, spec: 0)
        with pytest.raises(ParityError, match=r"logits in llama\.cpp differ from the reference.*was not kept"):
            press(student_dir, out)
    assert {path.name for path in out.iterdir()} == {".edgepress", "checkpoint"}
    press(student_dir, out)
    assert (out / "gguf" / "model.gguf").is_file()


def test_a_prediction_that_is_off_is_not_kept_either(
    student_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def off_by_one(model: Any, target: ExportTarget, *options: Any) -> dict[str, int]:
        return {path: size + 1 for path, size in predict_files(model, target, *options).items()}

    monkeypatch.setattr("edgepress.pipeline.export.predict_files", off_by_one)
    with pytest.raises(ParityError, match=r"gguf/model\.gguf: \d+ bytes written, \d+ predicted"):
        press(student_dir, tmp_path / "out")
    assert not (tmp_path / "out" / "gguf").exists()


def test_a_pressed_model_can_be_pressed_again(student_dir: Path, tmp_path: Path) -> None:
    press(student_dir, tmp_path / "first", step(solver="nearest", format="q8_0"), targets=())
    manifest = press(tmp_path / "first", tmp_path / "second")
    assert "already compressed" in manifest.lineage.student_notes[0]
    assert manifest.lineage.student_source == str(tmp_path / "first" / "checkpoint")

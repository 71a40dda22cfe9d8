"""What every shipped recipe must keep, on a tiny student: the plan is kept to the byte, and twice is the same."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from one_core import one_core  # noqa: F401
from tiny_models import make_model_dir

from edgepress.compress.student.open import open_student
from edgepress.pipeline.plan import make_plan
from edgepress.pipeline.run import compress
from edgepress.profiles.recipes import RECIPE_NAMES
from edgepress.recipe import Recipe, load_recipe

pytestmark = pytest.mark.usefixtures("one_core")


def _small(recipe: Recipe) -> Recipe:
    """The same recipe with little calibration text."""
    calibration = msgspec.structs.replace(recipe.calibration, samples=4, length=32)
    return msgspec.structs.replace(recipe, calibration=calibration)


def _contents(out: Path) -> dict[str, str]:
    files = (path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def student_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_dir("qwen3", tmp_path_factory.mktemp("recipes") / "student")


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_the_plan_is_kept_to_the_byte(
    name: str, family_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    recipe, student = _small(load_recipe(name)), open_student(str(family_dir))
    plan = make_plan(student, recipe, recipe.export)
    assert compress(student, recipe, tmp_path / "out", recipe.export) == plan
    written = {
        path.relative_to(tmp_path / "out").as_posix(): path.stat().st_size
        for target in recipe.export
        for path in (tmp_path / "out" / target).rglob("*")
    }
    assert written == plan.files


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_twice_is_the_same_to_the_byte(
    name: str, student_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = _small(load_recipe(name))
    for turn in ("first", "second"):
        monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / f"cache-{turn}"))
        compress(open_student(str(student_dir)), recipe, tmp_path / turn, recipe.export)
    first, second = _contents(tmp_path / "first"), _contents(tmp_path / "second")
    assert first == second
    model_files = {"gguf": "gguf/model.gguf", "onnx": "onnx/model.onnx"}
    assert {
        "manifest.json",
        "checkpoint/tensors.json",
        *(model_files[target] for target in recipe.export),
    } <= first.keys()


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_a_recipe_costs_nothing_until_it_is_run(name: str, student_dir: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    recipe = load_recipe(name)
    plan = make_plan(open_student(str(student_dir)), recipe, recipe.export)
    assert plan.peak_memory_bytes > 0
    assert list(tmp_path.iterdir()) == []

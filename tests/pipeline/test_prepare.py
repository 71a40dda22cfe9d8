"""A prepared model goes through the solvers, the budgets and the parity gate as any other, and stays the student."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from one_core import one_core  # noqa: F401
from own_cache import own_cache  # noqa: F401
from tiny_models import make_model_dir

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.compress.calibrate.config import Calibration
from edgepress.compress.calibrate.tokens import calibration_windows
from edgepress.compress.quantize.config import Preparation, QuantizeStep
from edgepress.compress.search.divergence import Divergence
from edgepress.compress.search.records import read_allocation
from edgepress.compress.student.open import open_student
from edgepress.compress.student.student import Student
from edgepress.export.parity import FLOAT_BOUND, check_logits, parity_reference
from edgepress.pipeline.run import compress
from edgepress.pipeline.text_needed import needs_calibration
from edgepress.recipe import ExportTarget, Recipe
from edgepress.runtime.locate import ENGINES, choose_model

pytestmark = pytest.mark.usefixtures("one_core", "own_cache")

METHODS: tuple[Preparation, ...] = get_args(Preparation)
BOTH: tuple[ExportTarget, ...] = ("gguf", "onnx")
CALIBRATION = Calibration(samples=6, length=48)


def recipe(**step: Any) -> Recipe:
    return Recipe(calibration=CALIBRATION, compress=(QuantizeStep(**step),), evaluate=None, bench=None, samples=None)


def test_files_of_a_prepared_model_answer_as_the_student_does(family_dir: Path, tmp_path: Path) -> None:
    """In both engines, against the student itself and not the prepared checkpoint."""
    student = open_student(str(family_dir))
    compress(student, recipe(solver="nearest", format="f32", prepare=METHODS[:-1]), tmp_path / "out", BOTH)
    checkpoint, reference = Checkpoint(tmp_path / "out" / "checkpoint"), parity_reference(student)  # type: ignore[arg-type]
    up = "model.layers.0.mlp.up_proj.weight"
    assert not np.array_equal(checkpoint.read(up), student.read(up))
    for engine in ENGINES:
        result = check_logits(choose_model(tmp_path / "out", engine), checkpoint, reference)
        assert abs(result.kld_mean) < FLOAT_BOUND


@pytest.mark.parametrize("solver", ["nearest", "scale_search", "gptaq"])
def test_every_solver_takes_a_prepared_model_through_the_gate(solver: str, llama_dir: Path, tmp_path: Path) -> None:
    student, wanted = open_student(str(llama_dir)), recipe(solver=solver, embedding="q8_0", prepare=METHODS)
    compress(student, wanted, tmp_path, BOTH)
    assert divergence(student, tmp_path) < 0.2


def test_a_budget_is_searched_and_met_with_a_prepared_model(tmp_path: Path) -> None:
    student = open_student(str(make_model_dir("llama", tmp_path / "student")))
    wanted = recipe(solver="gptaq", target_bpw=9.0, choices=("q4_0", "q8_0"), prepare=("scale_up_down", "awq"))
    compress(student, wanted, tmp_path / "out", ("gguf",))
    allocation = read_allocation(tmp_path / "out" / "checkpoint")
    assert allocation is not None
    assert {choice.format for choice in allocation.tensors} == {"q4_0", "q8_0"}
    assert divergence(student, tmp_path / "out") < 2 * allocation.tried_kld + 0.01


def test_only_what_looks_at_text_asks_for_it() -> None:
    assert needs_calibration(recipe(solver="nearest", prepare=("awq",)))
    assert not needs_calibration(recipe(solver="nearest", prepare=METHODS[:-1]))


def test_int8_inputs_are_calibrated_on_the_prepared_model(llama_dir: Path, tmp_path: Path) -> None:
    student = open_student(str(llama_dir))
    wanted = recipe(format="int8", embedding="q8_0", activations="int8", prepare=("fold_norms", "rotate_v_o"))
    compress(student, wanted, tmp_path, ("onnx",))
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    gains = checkpoint.read("model.layers.0.input_layernorm.weight")
    assert len(checkpoint.activation_scales) == 14
    assert not np.allclose(gains, 1)  # what smoothing put there
    assert divergence(student, tmp_path) < 0.2


def divergence(student: Student, out: Path) -> float:
    """Of a checkpoint's weights from the student."""
    windows = calibration_windows(student, Calibration(samples=4, length=48, seed=1))
    checkpoint = Checkpoint(out / "checkpoint")
    return Divergence(student, windows).of(lambda name, _original: checkpoint.read(name))

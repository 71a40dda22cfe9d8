"""Distillation as part of a recipe: text that nobody else saw judges it, and what it cannot do is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from one_core import one_core  # noqa: F401
from own_cache import own_cache  # noqa: F401
from tiny_models import make_model_dir

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.benchmarks.report.contents import read_contents
from edgepress.compress.calibrate.config import Calibration
from edgepress.compress.calibrate.held_out import hold_out
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.search.divergence import Divergence
from edgepress.compress.student.open import open_student
from edgepress.errors import InputError
from edgepress.pipeline.plan import make_plan
from edgepress.pipeline.run import compress
from edgepress.pipeline.solve import calibration_text
from edgepress.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_core", "own_cache")
QUICK: dict[str, Any] = {"evaluate": None, "bench": None, "samples": None, "baseline": False}


def recipe(samples: int = 8, **step: Any) -> Recipe:
    calibration = Calibration(samples=samples, length=48)
    return Recipe(calibration=calibration, compress=(QuantizeStep(**step),), export=("gguf", "onnx"), **QUICK)


def rows(windows: np.ndarray) -> set[bytes]:
    return {window.tobytes() for window in windows}


def test_no_window_both_trains_and_judges(llama_dir: Path) -> None:
    student = open_student(str(llama_dir))
    text = calibration_text(student, recipe(qad_tokens=96, qad_samples=24))
    assert len(text.training) + len(text.held_out) == 24
    assert len(text.solver) == 8
    assert rows(text.solver) <= rows(text.training)
    assert not rows(text.training) & rows(text.held_out)


def test_what_a_search_holds_back_is_not_trained_on_either(llama_dir: Path) -> None:
    """A bound on the divergence is measured on those windows."""
    text = calibration_text(open_student(str(llama_dir)), recipe(qad_tokens=96, qad_samples=24))
    judges, rest = hold_out(text.solver)
    assert len(judges) > 0
    assert rows(text.training_beside(rest)) == rows(text.training) - rows(judges)
    np.testing.assert_array_equal(text.training_beside(text.solver), text.training)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_distilled_model_is_exported_and_no_worse_on_held_out_text(family: str, tmp_path: Path) -> None:
    student = open_student(str(make_model_dir(family, tmp_path / "student")))
    chosen = recipe(solver="gptaq", format="q4_0", qad_tokens=4000, qad_samples=32)
    compress(student, chosen, tmp_path / "out", ("gguf", "onnx"))
    record = read_contents(tmp_path / "out").distillation
    assert record is not None
    reached = min(found for _, found in record.held_out)
    assert reached <= record.held_out[0][1]
    checkpoint = Checkpoint(tmp_path / "out" / "checkpoint")
    held_out = calibration_text(student, chosen).held_out
    assert Divergence(student, held_out).of(lambda name, _values: checkpoint.read(name)) == pytest.approx(reached)
    assert not (tmp_path / "out" / "checkpoint" / "solved").exists()


def test_a_budget_and_distillation_go_together(llama_dir: Path, tmp_path: Path) -> None:
    chosen = recipe(solver="gptaq", target_bpw=14.5, choices=("q4_0", "q5_0", "q8_0"), qad_tokens=400)
    plan = compress(open_student(str(llama_dir)), chosen, tmp_path, ("gguf",))
    assert (tmp_path / "checkpoint" / "allocation.json").is_file()
    assert (tmp_path / "checkpoint" / "distillation.json").is_file()
    written = (tmp_path / "gguf" / "model.gguf").stat().st_size
    assert plan.files["gguf/model.gguf"] == written


def test_training_rounded_inputs_is_refused_before_any_work(llama_dir: Path) -> None:
    step: dict[str, Any] = {"format": "int8", "embedding": "q8_0", "activations": "int8", "qad_tokens": 100}
    chosen = msgspec.structs.replace(recipe(**step), export=("onnx",))
    with pytest.raises(InputError, match="qad_tokens"):
        make_plan(open_student(str(llama_dir)), chosen, ("onnx",))


@pytest.mark.parametrize(
    ("samples", "step", "message"),
    [
        (8, {"format": "f16"}, "nothing to train"),
        (1, {}, "take at least 2"),
        (2, {"max_kld": 0.1, "choices": ("q4_0",)}, "max_kld and qad_tokens need; take at least 3"),
        (1, {"max_kld": 0.1, "choices": ("q4_0",), "qad_samples": 8}, "no window to judge"),
        (16, {"qad_samples": 8}, "8 windows to train on, fewer than the 16"),
    ],
)
def test_what_cannot_be_trained_or_judged_is_refused_before_any_work(
    llama_dir: Path, samples: int, step: dict[str, Any], message: str
) -> None:
    chosen = recipe(samples, qad_tokens=100, **step)
    with pytest.raises(InputError, match=message):
        make_plan(open_student(str(llama_dir)), chosen, ("gguf",))


def test_training_states_more_memory(llama_dir: Path) -> None:
    student = open_student(str(llama_dir))
    without, trained = (make_plan(student, recipe(qad_tokens=tokens), ("gguf",)) for tokens in (0, 100))
    assert trained.peak_memory_bytes > without.peak_memory_bytes

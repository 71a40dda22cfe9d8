"""The attribution in a run: on unless the recipe says no, on weights that fit together, and measured once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from commands import edgepress
from one_core import one_core  # noqa: F401
from own_cache import own_cache  # noqa: F401
from report_output import Page
from tiny_models import make_model_dir

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.compress.calibrate.config import Calibration
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.search.attribute import measure_attribution
from edgepress.compress.search.records import Attribution
from edgepress.compress.student.open import open_student
from edgepress.pipeline.by_tensor import some_windows
from edgepress.pipeline.measure import EvaluationText
from edgepress.pipeline.press import unquantized
from edgepress.pipeline.run import compress
from edgepress.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_core", "own_cache")
RUN: dict[str, Any] = {
    "calibration": {"samples": 2, "length": 16},
    "compress": [{"step": "quantize", "solver": "nearest", "format": "q4_0", "embedding": "q8_0"}],
    "export": ["gguf"],
    "bench": None,
    "samples": None,
    "baseline": False,
}


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_dir("llama", tmp_path_factory.mktemp("by-tensor") / "student")


def run(student: Path, place: Path, **evaluate: Any) -> Path:
    recipe, out = place / "r.yaml", place / "out"
    recipe.write_text(yaml.safe_dump(RUN | {"evaluate": {"tokens": 64, "context": 16} | evaluate}))
    done = edgepress("run", student, "--recipe", recipe, "-o", out)
    assert done.code == 0, done.err
    return out


def test_the_report_shows_it_unless_the_recipe_says_no(student: Path, tmp_path: Path) -> None:
    out = run(student, tmp_path)
    file, quality = (out / "measurements" / f"{name}.json" for name in ("tensors", "quality-gguf"))
    made = quality.stat().st_mtime_ns, file.stat().st_mtime_ns
    traces, _ = Page(out / "report.html").figure("nats")
    assert [len(trace["z"]) for trace in traces] == [7, 1]
    run(student, tmp_path)
    assert (quality.stat().st_mtime_ns, file.stat().st_mtime_ns) == made
    run(student, tmp_path, tensors=False)
    assert not file.exists() and quality.stat().st_mtime_ns == made[0]
    assert "figure-nats" not in (out / "report.html").read_text()


@pytest.mark.parametrize("budget", [{}, {"max_kld": 50.0, "choices": ("int8",)}])
def test_smoothed_weights_are_compared_with_what_they_were_rounded_from(
    student: Path, tmp_path: Path, budget: dict[str, Any]
) -> None:
    """Roles of a smoothed checkpoint do not fit among the student's own tensors: all norms have moved."""
    step = QuantizeStep(solver="nearest", format="int8", embedding="q8_0", activations="int8", smooth=0.8, **budget)
    calibration = Calibration(samples=6, length=32)
    recipe = Recipe(calibration=calibration, compress=(step,), export=("onnx",), evaluate=None, bench=None)
    opened = open_student(str(student))
    compress(opened, recipe, tmp_path, ())
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    source = unquantized(opened, recipe, checkpoint)
    norms = [name for name in checkpoint.names if len(checkpoint.shape(name)) == 1]
    assert all(np.array_equal(source.read(name), checkpoint.read(name)) for name in norms)
    assert any(not np.array_equal(opened.read(name), checkpoint.read(name)) for name in norms)
    windows = np.random.default_rng(0).integers(4, 300, (2, 32)).astype(np.int32)
    found: Attribution = measure_attribution(source, checkpoint, windows, 0)
    mixed = measure_attribution(opened, checkpoint, windows, 0)
    assert 0 < max(found.roles.values()) < max(mixed.roles.values()) / 10


@pytest.mark.parametrize(
    ("shape", "expected"), [((16, 512), (2, 512)), ((3, 512), (2, 512)), ((1, 64), (1, 64)), ((2, 4096), (1, 1024))]
)
def test_windows_are_few_and_spread_over_the_text(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    windows = np.arange(shape[0] * shape[1], dtype=np.int64).reshape(shape)
    found = some_windows(EvaluationText(windows=windows, text_sha256=None))
    assert found.shape == expected and found.dtype == np.int32
    np.testing.assert_array_equal(found[-1], windows[-1 if len(found) > 1 else 0, : expected[1]])

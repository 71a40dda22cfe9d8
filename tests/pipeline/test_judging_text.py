"""The text that a bound on the divergence is judged by takes no part in the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from one_core import one_core  # noqa: F401
from own_cache import own_cache  # noqa: F401

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.compress.calibrate.config import Calibration
from edgepress.compress.calibrate.held_out import hold_out
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.student.open import open_student
from edgepress.pipeline import solve
from edgepress.pipeline.press import press
from edgepress.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_core", "own_cache")
Windows = NDArray[np.int32]


def pressed(student: Path, windows: Windows, out: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    monkeypatch.setattr(solve, "calibration_windows", lambda *_: windows)
    step: dict[str, Any] = {"solver": "gptaq", "prepare": ("awq",), "max_kld": 50.0, "choices": ("q4_0",)}
    out.mkdir()
    press(
        open_student(str(student)),
        Recipe(calibration=Calibration(samples=len(windows)), compress=(QuantizeStep(**step),), export=("gguf",)),
        out,
    )
    return Checkpoint(out)


def test_other_text_to_judge_by_gives_the_same_weights(
    llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    windows = rng.integers(3, 300, (8, 48)).astype(np.int32)
    judges = {window.tobytes() for window in hold_out(windows)[0]}
    others = windows.copy()
    for index, window in enumerate(windows):
        if window.tobytes() in judges:
            others[index] = rng.integers(3, 300, 48)
    assert not np.array_equal(windows, others)
    first = pressed(llama_dir, windows, tmp_path / "first", monkeypatch)
    second = pressed(llama_dir, others, tmp_path / "second", monkeypatch)
    for name in first.names:
        np.testing.assert_array_equal(first.read(name), second.read(name), err_msg=name)

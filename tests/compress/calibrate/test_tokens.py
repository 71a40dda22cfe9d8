"""Calibration windows: from files, from the student itself, from both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_models import CORPUS

from edgepress.compress.calibrate.config import Calibration
from edgepress.compress.calibrate.tokens import calibration_digest, calibration_windows
from edgepress.compress.student.open import open_student
from edgepress.errors import InputError
from edgepress.runtime.text import TextCodec


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))


def test_windows_from_a_file_are_stretches_of_its_tokens(llama_dir: Path, tmp_path: Path) -> None:
    text = CORPUS * 30
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    calibration = Calibration(self_generated=False, files=(str(tmp_path / "text.txt"),), samples=7, length=32)
    windows = calibration_windows(open_student(str(llama_dir)), calibration)
    ids = TextCodec(llama_dir).encode(text, special=False)
    stretches = {tuple(ids[start : start + 32]) for start in range(0, len(ids), 32)}
    assert windows.shape == (7, 32)
    assert {tuple(window) for window in windows.tolist()} <= stretches


def test_the_students_own_text_opens_like_a_conversation_and_is_repeatable(llama_dir: Path) -> None:
    student = open_student(str(llama_dir))
    calibration = Calibration(samples=3, length=24, seed=5)
    windows = calibration_windows(student, calibration)
    opening = TextCodec(llama_dir).encode("<|im_start|>user\n", special=False)
    assert windows.shape == (3, 24)
    assert all(window[: len(opening)] == opening for window in windows.tolist())
    assert len({tuple(window) for window in windows.tolist()}) == 3
    assert np.array_equal(windows, calibration_windows(student, calibration))


def test_another_seed_writes_another_text(llama_dir: Path) -> None:
    student = open_student(str(llama_dir))
    first, second = (calibration_windows(student, Calibration(samples=2, length=24, seed=seed)) for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_both_sources_share_the_samples(llama_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(CORPUS * 30, encoding="utf-8")
    calibration = Calibration(files=(str(tmp_path / "text.txt"),), samples=5, length=16)
    assert calibration_windows(open_student(str(llama_dir)), calibration).shape == (5, 16)


def test_the_digest_follows_the_content_of_the_files(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("one", encoding="utf-8")
    calibration = Calibration(files=(str(path),))
    before = calibration_digest(calibration)
    path.write_text("two", encoding="utf-8")
    assert calibration_digest(calibration) != before


def test_too_little_text_is_refused_with_the_numbers(llama_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("too short", encoding="utf-8")
    calibration = Calibration(self_generated=False, files=(str(tmp_path / "short.txt"),), samples=4, length=64)
    with pytest.raises(InputError, match=r"hold \d+ tokens, 4 windows of 64 need 256"):
        calibration_windows(open_student(str(llama_dir)), calibration)


def test_no_source_and_a_missing_file_are_refused(llama_dir: Path) -> None:
    student = open_student(str(llama_dir))
    with pytest.raises(InputError, match="'self' is false and 'files' is empty"):
        calibration_windows(student, Calibration(self_generated=False))
    with pytest.raises(InputError, match=r"nowhere\.txt: no such file"):
        calibration_windows(student, Calibration(files=("nowhere.txt",)))

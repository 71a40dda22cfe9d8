"""A build whose kernels crash on this processor is found out in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgepress.runtime import llamacpp_kernels
from edgepress.runtime.ggml_product import GgmlProduct
from edgepress.runtime.llamacpp_kernels import _multiply_once, _succeeds, extra_kernels_work

pytest.importorskip("llama_cpp")


def build(folder: Path, said: bytes) -> SimpleNamespace:
    """What is asked of the module ``llama_cpp``."""
    return SimpleNamespace(__file__=str(folder / "__init__.py"), llama_print_system_info=lambda: said)


def test_the_trial_passes_in_the_build_that_the_tests_run_in() -> None:
    assert _multiply_once() == 0


def test_a_process_that_crashes_or_says_no_has_not_succeeded() -> None:
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    assert not _succeeds([sys.executable, "-c", crash])
    assert not _succeeds([sys.executable, "-c", "raise SystemExit(3)"])
    assert _succeeds([sys.executable, "-c", ""])


def test_a_trial_that_could_not_be_made_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    endings = ["raise SystemExit(1)", ""]
    monkeypatch.setattr(llamacpp_kernels, "_succeeds", lambda _: _succeeds([sys.executable, "-c", endings.pop(0)]))
    api = build(tmp_path, b"CPU : AVX512 = 1 | AMX_INT8 = 1 |")
    assert not extra_kernels_work(api)
    assert "could not be tried" in capsys.readouterr().err
    assert extra_kernels_work(api)
    assert not endings


def test_a_build_without_these_kernels_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    assert extra_kernels_work(build(tmp_path, b"CPU : AVX512 = 1 | AMX_INT8 = 0 |"))
    assert not (tmp_path / "cache").exists()


def test_a_build_that_crashes_is_tried_once_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    tried: list[list[str]] = []

    def crash(command: list[str]) -> bool:
        tried.append(command)
        return _succeeds([sys.executable, "-c", "import os; os.abort()"])

    monkeypatch.setattr(llamacpp_kernels, "_succeeds", crash)
    api = build(tmp_path, b"CPU : AVX512 = 1 | AMX_INT8 = 1 |")
    assert [extra_kernels_work(api) for _ in range(2)] == [False, False]
    assert len(tried) == 1
    assert "AMX" in capsys.readouterr().err


def test_weights_that_are_not_repacked_give_the_same_product() -> None:
    shape = (96, 512)
    found = {}
    for repacked in (False, True):
        with GgmlProduct("q4_0", shape, tokens=7, copies=1, threads=1, repacked=repacked) as product:
            product.run()
            found[repacked] = product.output()
            if not repacked:
                assert product.kernels == "CPU"
    np.testing.assert_allclose(found[False], found[True], atol=1e-3 * np.abs(found[True]).max())

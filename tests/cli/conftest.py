"""A place with everything that a command may be given."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from exports import export_everywhere

RECIPE = """
calibration: {samples: 2, length: 16}
compress: [{step: quantize, solver: nearest, format: q4_0}]
evaluate: null
bench: null
samples: null
"""


@pytest.fixture(scope="module")
def run_dir(llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves, as far as the engines are concerned."""
    return export_everywhere(llama_dir, tmp_path_factory.mktemp("run"), "q4_0")


@pytest.fixture
def place(llama_dir: Path, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with a student, a run, a recipe and a text; ``out`` must not exist at the end."""
    shutil.copytree(llama_dir, tmp_path / "student")
    shutil.copytree(run_dir, tmp_path / "run")
    (tmp_path / "r.yaml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "text.txt").write_text("The quick brown fox. " * 40, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    yield tmp_path
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))

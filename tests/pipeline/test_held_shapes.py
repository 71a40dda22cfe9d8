"""A start that an export would refuse is said so beforehand, and once; one that is no smaller is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import edgepress
from own_cache import own_cache  # noqa: F401
from tiny_models import CORPUS, make_model_dir

pytestmark = pytest.mark.usefixtures("own_cache")
NOTE = "note: as it is, this model cannot be exported to gguf: "


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gemma3 of seven layers, five that see a window, one that sees all, and one more."""
    monkeypatch.chdir(tmp_path)
    make_model_dir("gemma3", tmp_path / "gemma3")
    (tmp_path / "text.txt").write_text(CORPUS * 12, encoding="utf-8")
    (tmp_path / "six.json").write_text(json.dumps({"num_hidden_layers": 6}), encoding="utf-8")
    (tmp_path / "s.yaml").write_text("train: {tokens: 64, length: 16, batch_tokens: 32, checks: 1}", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(("layers", "said"), [("uniform", True), ("first", False)])
def test_slices_whose_layers_are_no_longer_in_llama_cpps_places(place: Path, layers: str, said: bool) -> None:
    done = edgepress(
        "slice", "gemma3", "--start", "six.json", "--select", "uniform", "--layers", layers, "-o", "out"
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.err.count(NOTE) == said
    made = edgepress("compress", place / "out", "--recipe", "8bit", "-o", place / "pressed")
    assert (edgepress("export", place / "pressed", "--to", "gguf", "-o", place / "files").code == 2) == said, made.err


def test_a_start_to_train_says_it_once(place: Path) -> None:
    words = ("distill", "--teacher", "gemma3", "--start", "six.json", "--select", "uniform", "--text", "text.txt")
    runs = [edgepress(*words, "--settings", "s.yaml", "-o", place / "out") for _ in range(2)]
    assert [run.code for run in runs] == [0, 0], runs[0].err
    assert [run.err.count(NOTE) for run in runs] == [1, 0]


def test_a_start_of_the_teachers_own_sizes_is_refused_unless_its_weights_are_new(place: Path) -> None:
    (place / "same.json").write_text(json.dumps({"num_hidden_layers": 7}), encoding="utf-8")
    words = ("distill", "--teacher", "gemma3", "--start", "same.json", "--text", "text.txt", "--settings", "s.yaml")
    refused = edgepress(*words, "-o", place / "copy").error()
    assert refused == "start: the sizes are the teacher's own; give smaller ones, or --student to train it as it is"
    assert not (place / "copy").exists()
    assert edgepress(*words, "--select", "random", "-o", place / "new").code == 0

"""``edgepress slice``: a directory that stock transformers opens, whole or not there, and refusals in one line."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import edgepress
from killed_runs import Outcome, Run, Runner
from one_core import one_core  # noqa: F401
from own_cache import own_cache  # noqa: F401
from safetensors.numpy import load_file, save_file
from slice_scene import DECODER, ENCODER, in_the_scene, make_scene  # noqa: F401
from sliceable import make_model, write

from edgepress.compress.distill.channel_statistics import channel_statistics
from edgepress.compress.distill.smaller import smaller_size
from edgepress.compress.distill.text import draw, read_windows
from edgepress.compress.distill.weight_selection import SelectedWeights, evenly
from edgepress.compress.student.open import open_student
from edgepress.runtime.text import TextCodec

pytestmark = pytest.mark.usefixtures("one_core", "own_cache")


@pytest.mark.parametrize("by_importance", [True, False])
def test_a_decoder_is_written_as_it_is_selected(scene: Path, tmp_path: Path, by_importance: bool) -> None:
    way = ["--select", "importance" if by_importance else "uniform", "--text", "text.txt"]
    record = edgepress("slice", "llama", "--start", "decoder.json", "-o", tmp_path / "out", *way, "--json").json()
    source = open_student("llama")
    windows = draw(read_windows(TextCodec(source.tokenizer_dir), ("text.txt",), 256), 32).tokens
    statistics = channel_statistics(source, windows)
    wanted = SelectedWeights(source, smaller_size(source, DECODER), statistics, by_importance=by_importance)
    found = open_student(str(tmp_path / "out"))
    assert found.names == wanted.names
    for name in found.names:
        np.testing.assert_array_equal(found.read(name), wanted.read(name))
    assert (wanted.selection.hidden.tolist() == evenly(32, 64).tolist()) is not by_importance
    assert record["sizes"] | DECODER == record["sizes"]
    assert record["parameters"] == found.parameters
    assert record["norms"] == "fitted"


def test_a_uniform_decoder_needs_no_text_and_is_plain_slices(scene: Path, tmp_path: Path) -> None:
    done = edgepress("slice", "llama", "--start", "width=0.5,depth=0.5", "--select", "uniform", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert "layers 0 of the source; norms kept" in done.out
    small, large = (load_file(place / "model.safetensors") for place in (tmp_path / "out", scene / "llama"))
    name = "model.layers.0.input_layernorm.weight"
    np.testing.assert_array_equal(small[name], large[name])  # 64 channels are the least


def test_an_encoder_is_one_that_stock_transformers_reads(scene: Path, tmp_path: Path) -> None:
    import transformers

    arguments: list[str | Path] = ["--start", "encoder.json", "--text", "text.txt", "-o", tmp_path / "out", "--json"]
    record = edgepress("slice", "classifier", *arguments).json()
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.classifier.weight.shape == (5, 32)
    assert record["parameters"] == sum(values.numel() for values in model.parameters())
    assert record["sizes"] == ENCODER
    assert record["layers"] == [0, 2]
    assert json.loads((tmp_path / "out" / "slice.json").read_text("utf-8")) == record
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("fox")["input_ids"] == transformers.AutoTokenizer.from_pretrained("classifier")("fox")["input_ids"]


def test_a_vision_model_is_cut_on_pictures(scene: Path, tmp_path: Path) -> None:
    import transformers

    arguments: list[str | Path] = ["--start", "width=0.5", "--images", "pictures.npy", "-o", tmp_path / "out", "--json"]
    record = edgepress("slice", "vit", *arguments).json()
    assert record["sizes"] == {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 48,
    }
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 16, 16)).logits.shape == (1, 5)


@pytest.mark.parametrize("name", ["bert", "classifier", "vit"])
def test_nothing_removed_writes_the_same_numbers(scene: Path, tmp_path: Path, name: str) -> None:
    done = edgepress("slice", name, "--start", "width=1", "--select", "uniform", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    found, wanted = (load_file(place / "model.safetensors") for place in (tmp_path / "out", scene / name))
    assert found.keys() == wanted.keys()
    for key, values in wanted.items():
        np.testing.assert_array_equal(found[key], values)
    before, after = (json.loads((p / "config.json").read_text("utf-8")) for p in (scene / name, tmp_path / "out"))
    assert before == after


def test_sentence_transformers_is_told_the_new_width(scene: Path, tmp_path: Path) -> None:
    source = write(make_model("BertModel"), tmp_path / "source")
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text(
        '{"word_embedding_dimension": 64, "pooling_mode_mean_tokens": true}'
    )
    (source / "modules.json").write_text("[]")
    done = edgepress("slice", source, "--start", "encoder.json", "--select", "uniform", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    pooling = json.loads((tmp_path / "out" / "1_Pooling" / "config.json").read_text("utf-8"))
    assert pooling == {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    assert (tmp_path / "out" / "modules.json").is_file()


def test_a_source_without_a_pooler_gives_a_slice_without_one(scene: Path, tmp_path: Path) -> None:
    source = write(make_model("BertModel"), tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    kept = {name: values for name, values in tensors.items() if "pooler" not in name}
    save_file(kept, source / "model.safetensors", metadata={"format": "pt"})
    arguments: list[str | Path] = ["--start", "encoder.json", "--text", "text.txt", "-o", tmp_path / "out", "--json"]
    record = edgepress("slice", source, *arguments).json()
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert not [name for name in found if "pooler" in name]
    assert record["parameters"] == sum(values.size for values in found.values())


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as started:
        yield started


@pytest.mark.parametrize("model", ["llama", "bert"])
def test_a_killed_slice_is_not_there_and_the_next_is_whole(
    scene: Path, runner: Runner, tmp_path: Path, model: str
) -> None:
    sizes = scene / ("decoder.json" if model == "llama" else "encoder.json")

    def run(name: str, kill_at: int | None = None) -> Run:
        home = tmp_path / name
        out, text = str(home / "out"), str(scene / "text.txt")
        command = ("slice", str(scene / model), "--start", str(sizes), "--text", text, "-o", out)
        return Run(command, cache=str(home / "cache"), root=str(home), kill_at=kill_at)

    def files(name: str) -> dict[str, str]:
        out = tmp_path / name / "out"
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}

    whole: Outcome = runner.perform(run("whole"))[0]
    assert whole.code == 0, whole.err
    renamed = [place for place, change in enumerate(whole.changes, start=1) if change[0] == "os.rename"][-1]
    for kill_at in sorted({1, renamed // 2, renamed - 1, renamed}):
        name = f"killed-{kill_at}"
        killed = runner.perform(run(name, kill_at))[0]
        assert killed.code == -signal.SIGKILL
        if (tmp_path / name / "out").exists():
            assert files(name) == files("whole")
        assert runner.perform(run(name))[0].code == 0
        assert files(name) == files("whole")
        assert [path.name for path in (tmp_path / name).iterdir() if "partial" in path.name] == []


def test_what_was_done_to_an_earlier_slice_is_not_written_over(scene: Path, tmp_path: Path) -> None:
    command = ("slice", "classifier", "--start", "encoder.json", "--select", "uniform", "-o", tmp_path / "out")
    assert [edgepress(*command).code for _ in range(2)] == [0, 0]
    (tmp_path / "out" / "checkpoint").mkdir()
    (tmp_path / "out" / "checkpoint" / "trained").write_text("hours of work", encoding="utf-8")
    assert "added or changed" in edgepress(*command).error()
    assert (tmp_path / "out" / "checkpoint" / "trained").read_text("utf-8") == "hours of work"

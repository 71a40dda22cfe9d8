"""Every command on a tiny student: one JSON document on request, and figures that hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import edgepress, edgepress_process
from one_core import one_core  # noqa: F401
from tiny_models import make_model_dir

from edgepress.compress.quantize.config import QuantizeStep
from edgepress.profiles.recipes import RECIPE_NAMES
from edgepress.runtime.locate import ENGINES

pytestmark = pytest.mark.usefixtures("one_core")

PLAIN = """
compress: [{step: quantize, solver: nearest, format: %s}]
evaluate: null
bench: null
samples: null
"""
WHOLE = """
calibration: {samples: 2, length: 16}
compress: [{step: quantize, solver: scale_search, format: q4_0, embedding: q8_0}]
evaluate: {tokens: 64, context: 32}
bench: {prompt: 8, generate: 2, repetitions: 1, threads: 1}
samples: {prompts: ["Hello?"], tokens: 4}
"""
SCORED = ["--context", "64", "--tokens", "512"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student, its exact copy in ``f32`` and a 4-bit one in ``q4_0``, recipes, a text and prompts."""
    root = tmp_path_factory.mktemp("commands")
    make_model_dir("llama", root / "student")
    words = ["the", "quick", "brown", "fox", "1984", "caf\u00e9", "\u4f60\u597d", "return", "radius"]
    (root / "text.txt").write_text(" ".join(words[i * i % 7 + i % 3] for i in range(900)), encoding="utf-8")
    (root / "prompts.txt").write_text("Hello?\n\nPack my box.\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEPRESS_CACHE", str(root / "cache"))
        for format in ("f32", "q4_0"):
            (root / f"{format}.yaml").write_text(PLAIN % format, encoding="utf-8")
            done = edgepress("run", root / "student", "-r", root / f"{format}.yaml", "-o", root / format)
            assert done.code == 0, done.err
    return root


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("EDGEPRESS_CACHE", str(place / "cache"))


def test_a_dry_run_predicts_the_bytes_and_writes_nothing(place: Path) -> None:
    plan = edgepress("run", "student", "-r", "q4_0.yaml", "-o", "nowhere", "--dry-run", "--json").json()
    written = {path: (place / "q4_0" / path).stat().st_size for path in plan["files"]}
    assert plan["files"] == written
    assert {"gguf/model.gguf", "onnx/model.onnx", "onnx/model.onnx.data", "onnx/genai_config.json"} <= written.keys()
    assert plan["peak_memory_bytes"] > 0
    assert {tensor["format"] for tensor in plan["tensors"]} == {"q4_0", "f32"}
    assert not (place / "nowhere").exists()
    only = edgepress("compress", "student", "-r", "q4_0.yaml", "-o", "nowhere", "--dry-run", "--json").json()
    assert only["files"] == {}


def test_a_dry_run_tells_a_person_the_same(place: Path) -> None:
    done = edgepress("run", "student", "-r", "q4_0.yaml", "-o", "nowhere", "--dry-run")
    size = (place / "q4_0" / "gguf" / "model.gguf").stat().st_size
    assert done.code == 0
    assert f"{size} bytes" in done.out
    assert "peak memory" in done.out


def test_compress_and_export_are_the_run_in_two(place: Path, tmp_path: Path) -> None:
    made = edgepress("compress", "student", "-r", "q4_0.yaml", "-o", tmp_path / "c", "--json").json()
    assert made["checkpoint"] == str(tmp_path / "c" / "checkpoint")
    assert made["peak_memory_bytes_planned"] > 0
    targets = ("--to", "gguf", "--to", "onnx")
    written = edgepress("export", tmp_path / "c", *targets, "-o", tmp_path / "e", "--json").json()
    assert written["out"] == str(tmp_path / "e")
    assert written["files"]["gguf/model.gguf"] == (tmp_path / "e" / "gguf" / "model.gguf").stat().st_size
    for path in written["files"]:
        assert (tmp_path / "e" / path).read_bytes() == (place / "q4_0" / path).read_bytes(), path


def test_a_whole_run_measures_every_file_and_writes_the_report(place: Path, tmp_path: Path) -> None:
    (place / "whole.yaml").write_text(WHOLE, encoding="utf-8")
    results = edgepress("run", "student", "-r", "whole.yaml", "-o", tmp_path / "out", "--json").json()
    assert results["models"].keys() == {"gguf", "onnx", "baseline"}
    for row in results["models"].values():
        assert row["file_bytes"] > 0
        assert row["decode_tokens_per_s"] > 0
        assert row["kld_mean"] < 0.5
    assert results["models"]["baseline"]["kld_mean"] < results["models"]["gguf"]["kld_mean"]
    assert Path(results["report"]).stat().st_size > 10_000
    samples = json.loads((tmp_path / "out" / "measurements" / "samples.json").read_text(encoding="utf-8"))
    assert samples["samples"][0]["answers"].keys() == {"student", "gguf", "onnx", "baseline"}
    _measures_nothing_again(tmp_path / "out", results)


def _measures_nothing_again(out: Path, results: Any) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (out / "measurements").iterdir()}
    assert edgepress("run", "student", "-r", "whole.yaml", "-o", out, "--json").json() == results
    assert {path.name: path.stat().st_mtime_ns for path in (out / "measurements").iterdir()} == before


@pytest.mark.parametrize("engine", ENGINES)
def test_an_exact_copy_has_no_divergence_in_any_engine(engine: str) -> None:
    command = ["eval", "f32", "--against", "student", "--text", "text.txt", *SCORED, "--engine", engine, "--json"]
    record = edgepress(*command).json()
    assert record["engine"] == engine
    assert abs(record["kld_mean"]) < 1e-6
    assert record["top1_agreement"] > 0.99
    assert record["ppl"] == pytest.approx(record["ppl_reference"], rel=1e-4)
    assert record["tokens"] == 8 * 63
    fields = {"kld_se", "kld_p99", "ppl_se", "file_bytes", "bits_per_weight", "protocol"}
    assert fields <= record.keys()


def test_four_bits_cost_something_and_the_same_in_torch_as_in_the_engines() -> None:
    scored = ["--against", "student", "--text", "text.txt", *SCORED, "--json"]
    records = {engine: edgepress("eval", "q4_0", *scored, "--engine", engine).json() for engine in ENGINES}
    assert records["torch"]["kld_mean"] > 1e-3
    for record in records.values():
        assert record["kld_mean"] == pytest.approx(records["torch"]["kld_mean"], rel=0.2)
        assert record["ppl_reference"] == records["torch"]["ppl_reference"]
    assert records["llama.cpp"]["bits_per_weight"] < records["torch"]["bits_per_weight"]


def test_a_file_alone_is_measured_like_the_run_around_it(place: Path) -> None:
    scored = ["--against", "student", "--text", "text.txt", *SCORED, "--json"]
    file = edgepress("eval", place / "q4_0" / "gguf" / "model.gguf", *scored).json()
    run = edgepress("eval", "q4_0", *scored).json()
    assert (file["kld_mean"], file["file_bytes"]) == (run["kld_mean"], run["file_bytes"])


def test_eval_tells_a_person_the_same() -> None:
    done = edgepress("eval", "q4_0", "--against", "student", "--text", "text.txt", *SCORED)
    assert done.code == 0
    for word in ("mean KLD", "99 % KLD", "top-1 agreement", "perplexity", "bits per weight"):
        assert word in done.out


@pytest.mark.parametrize("part", ["gguf", "onnx"])
def test_bench_gives_its_raw_samples_and_llama_benchs_names(part: str) -> None:
    command = ["bench", f"q4_0/{part}", "--prompt", "16", "--generate", "3", "--repetitions", "2", "--threads", "1"]
    record = edgepress(*command, "--json").json()
    names = {"load_ms", "ttft_ms", "token_ms_p50", "token_ms_p90", "token_ms_p99", "peak_rss_bytes", "n_threads"}
    assert names <= record.keys()
    assert {"avg_ts", "samples_ns", "n_prompt", "n_gen", "model_size"} <= _every_key(record)
    assert any(name.startswith("samples_") for name in record)
    assert record["n_threads"] == 1
    assert record["file_bytes"] > 0
    done = edgepress(*command)
    assert (done.code, "decode" in done.out) == (0, True)


def _every_key(document: Any) -> set[str]:
    if isinstance(document, dict):
        return set(document).union(*map(_every_key, document.values()))
    return set().union(*map(_every_key, document)) if isinstance(document, list) else set()


def test_two_files_are_compared_in_turns() -> None:
    command = ["bench", "--compare", "q4_0/gguf", "f32/gguf", "--prompt", "8", "--generate", "2", "--repetitions", "2"]
    compared = edgepress(*command, "--threads", "1", "--json").json()
    assert len(compared["verdict"]) > 0
    assert edgepress(*command, "--threads", "1").code == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_generate_answers_every_prompt_alike_in_every_engine(engine: str) -> None:
    command = ["generate", "f32", "--prompts", "prompts.txt", "--tokens", "6", "--context", "64", "--engine", engine]
    answers = edgepress(*command, "--json").json()
    assert [entry["prompt"] for entry in answers] == ["Hello?", "Pack my box."]
    reference = edgepress(*command[:-1], "torch", "--json").json()
    assert answers == reference
    assert answers[0]["answer"] in edgepress(*command).out


def test_generate_can_continue_a_text_without_the_template() -> None:
    command = ["generate", "f32", "--prompts", "prompts.txt", "--tokens", "4", "--context", "64", "--json"]
    assert edgepress(*command, "--plain").json() != edgepress(*command).json()


def test_chat_answers_line_by_line_until_an_empty_one() -> None:
    command = ["chat", "f32", "--tokens", "5", "--context", "128", "--threads", "1"]
    done = edgepress(*command, stdin="Hello?\nAnd now?\n\nnever read\n")
    assert (done.code, done.err) == (0, "")
    answers = edgepress(*["generate", *command[1:]], "--prompts", "prompts.txt", "--json").json()
    assert done.out.startswith(answers[0]["answer"])
    assert done.out.count("\n") >= 2
    assert edgepress(*command, "--system", "Be short.", stdin="Hello?\n").code == 0


@pytest.mark.parametrize("thing", ["student", "f32", "q4_0", "q4_0/gguf/model.gguf", "q4_0/onnx", "q4_0.yaml", "demo"])
def test_show_describes(thing: str) -> None:
    description = edgepress("show", thing, "--json").json()
    assert len(description) > 1
    done = edgepress("show", thing)
    assert done.code == 0
    for name in description:
        assert name in done.out


def test_show_counts_what_is_there(place: Path) -> None:
    shown = edgepress("show", "q4_0", "--json").json()
    student = edgepress("show", "student", "--json").json()
    assert (shown["layers"], shown["hidden"], shown["vocabulary"]) == (2, 64, student["vocabulary"])
    assert shown["parameters"] == student["parameters"]
    assert shown["formats"] == {"q4_0": 15, "f32": 5}
    assert shown["files"]["gguf/model.gguf"] == (place / "q4_0" / "gguf" / "model.gguf").stat().st_size


def test_names_with_brackets_and_colons_are_shown_as_they_are(place: Path, tmp_path: Path) -> None:
    odd = shutil.copytree(place / "student", tmp_path / "[bold] [" / "x] :smile: [draft]")
    done = edgepress("show", odd)
    assert done.code == 0
    assert "x] :smile: [draft]" in done.out


def test_steps_and_recipes_are_listed_whole() -> None:
    steps = edgepress("steps", "--json").json()
    defaults = {name: getattr(QuantizeStep(), name) for name in QuantizeStep.__struct_fields__}
    assert steps["quantize"] == {
        name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()
    }
    assert steps["prune_ffn"]["keep"] == steps["prune_layers"]["drop"] == "required"
    recipes = edgepress("recipes", "--json").json()
    assert recipes.keys() == set(RECIPE_NAMES)
    for name in RECIPE_NAMES:
        assert name in edgepress("recipes").out
    assert "quantize" in edgepress("steps").out


def test_in_a_process_of_its_own_stdout_is_the_document_alone() -> None:
    scored = ["--against", "student", "--text", "text.txt", *SCORED, "--json"]
    record = edgepress_process("eval", "q4_0/onnx", *scored).json()
    assert record["engine"] == "onnxruntime"


def test_a_conversation_longer_than_the_context_forgets_its_oldest_turns(place: Path) -> None:
    questions = "".join(f"question number {number} about the lazy dog\n" for number in range(12))
    done = edgepress("chat", "q4_0/gguf", "--tokens", "8", stdin=questions)
    assert done.code == 0
    assert "the oldest turns are forgotten" in done.err

"""Recipes and exports with TensorRT as the target, on a machine without a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import edgepress
from one_core import one_core  # noqa: F401

pytestmark = pytest.mark.usefixtures("one_core")

RECIPE = """
calibration: {self: true, samples: 2, length: 16}
compress: [{step: quantize, solver: nearest, format: FORMAT, embedding: f16}]
export: [tensorrt]
evaluate: {tokens: 64, context: 32, tensors: false}
bench: {prompt: 8, generate: 4, repetitions: 1}
samples: {tokens: 2}
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))


def recipe(tmp_path: Path, format: str) -> Path:
    path = tmp_path / f"{format}.yaml"
    path.write_text(RECIPE.replace("FORMAT", format), encoding="utf-8")
    return path


def test_a_recipe_is_measured_in_onnx_runtime_and_the_report_says_so(llama_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = edgepress("run", llama_dir, "--recipe", recipe(tmp_path, "trt_int4_64"), "--out", out, "--json").json()
    row = results["models"]["tensorrt"]
    assert 0 < row["kld_mean"] < 1
    assert "decode_tokens_per_s" not in row  # of a GPU, which was not asked
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "measured in ONNX Runtime on the CPU, from the same graph; no engine was run" in report
    scored = edgepress("show", out, "--json").json()
    assert scored


def test_an_export_with_engines_is_made_once(llama_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    pressed, out = tmp_path / "pressed", tmp_path / "out"
    assert edgepress("compress", llama_dir, "--recipe", recipe(tmp_path, "f16"), "--out", pressed).code == 0
    export = ("export", pressed, "--to", "tensorrt", "--target", "rtx-4090,sm89", "--out", out)
    files = edgepress(*export, "--json").json()["files"]
    assert {"tensorrt/engines/sm89/model.engine", "tensorrt/engines/sm89/engine.json"} < set(files)
    record = json.loads((out / "tensorrt" / "engines" / "sm89" / "engine.json").read_text(encoding="utf-8"))
    assert record["runtime_cache"]["compute_capability"] == "sm89"
    again = edgepress(*export)
    assert "tensorrt: up to date" in again.err
    assert "engine for sm89: up to date" in again.err
    (out / "tensorrt" / "engines" / "sm89" / "model.engine").write_bytes(b"damaged")
    more = edgepress(*export[:4], "--target", "sm86", "--out", out, "--json").json()["files"]
    assert {"tensorrt/engines/sm86/model.engine", "tensorrt/engines/sm89/model.engine"} < set(more)
    assert "engine for sm89: up to date" not in edgepress(*export).err


def test_engines_built_beside_a_finished_export_stay_when_the_run_is_repeated(llama_dir: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "recipe.yaml", tmp_path / "out"
    text = RECIPE.replace("FORMAT", "f16").split("evaluate:")[0]
    path.write_text(text + "evaluate: null\nbench: null\nsamples: null\n", encoding="utf-8")
    assert edgepress("run", llama_dir, "--recipe", path, "--out", out).code == 0
    listed = (out / "manifest.json").read_bytes()
    added = [out / "tensorrt" / name for name in ("engines/sm87-0/model.engine", "build_engine.sh")]
    added[0].parent.mkdir(parents=True)
    for file in added:
        file.write_bytes(b"made on a board")
    assert "tensorrt: up to date" in edgepress("run", llama_dir, "--recipe", path, "--out", out).err
    assert all(file.read_bytes() == b"made on a board" for file in added)
    assert (out / "manifest.json").read_bytes() == listed
    (out / "tensorrt" / "model.onnx").write_bytes(b"damaged")
    assert "tensorrt: up to date" not in edgepress("run", llama_dir, "--recipe", path, "--out", out).err
    assert not added[0].exists()


def test_limits_and_profiles_of_an_export_reach_its_description_and_its_engine(llama_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    path = recipe(tmp_path, "f16")
    asked = "tensorrt: {targets: [rtx-4090], profiles: two, batch: 2, call_tokens: 8, context: 24}\n"
    text = (
        path.read_text(encoding="utf-8").split("evaluate:")[0] + asked + "evaluate: null\nbench: null\nsamples: null\n"
    )
    path.write_text(text, encoding="utf-8")
    out, again = tmp_path / "out", tmp_path / "again"
    assert edgepress("run", llama_dir, "--recipe", path, "--out", out).code == 0
    limits = ("--profiles", "two", "--batch", "2", "--call-tokens", "8", "--context", "24", "--target", "sm89")
    assert edgepress("export", out, "--to", "tensorrt", *limits, "--out", again).code == 0
    stated = [(folder / "tensorrt" / "tensorrt.json").read_bytes() for folder in (out, again)]
    assert stated[0] == stated[1]
    layout = json.loads(stated[0])
    wanted = {"profiles": "two", "batch": 2, "call_tokens": 8, "context": 24}
    assert {name: layout[name] for name in wanted} == wanted
    record = json.loads((out / "tensorrt" / "engines" / "sm89" / "engine.json").read_text(encoding="utf-8"))
    assert record["profiles"] == "two"
    long = "evaluate: {context: 32, tokens: 64}"
    path.write_text(text.replace("evaluate: null", long), encoding="utf-8")
    told = edgepress("run", llama_dir, "--recipe", path, "--out", tmp_path / "no").error()
    assert "tensorrt.context: 24 tokens are fewer than evaluate.context, 32" in told


def test_what_no_gpu_or_format_holds_is_refused_before_anything_is_written(llama_dir: Path, tmp_path: Path) -> None:
    pressed, out = tmp_path / "pressed", tmp_path / "out"
    assert edgepress("compress", llama_dir, "--recipe", recipe(tmp_path, "trt_int4_64"), "--out", pressed).code == 0
    to = ("export", pressed, "--to", "tensorrt", "--out", out, "--target")
    assert "4-bit formats there; it has f16, int8" in edgepress(*to, "t4").error()
    assert "edgepress engine build" in edgepress(*to, "jetson-agx-orin").error()
    assert "add --to tensorrt" in edgepress("export", pressed, "--to", "onnx", "--out", out, "--target", "t4").error()
    limited = ("export", pressed, "--to", "tensorrt", "--out", out)
    assert "the model's is " in edgepress(*limited, "--context", "1000000").error()
    assert "calls of 9 tokens in a context of 8" in edgepress(*limited, "--call-tokens", "9", "--context", "8").error()
    assert "an engine has one or two" in edgepress(*limited, "--profiles", "three").error()
    assert not out.exists()
    told = edgepress("run", llama_dir, "--recipe", recipe(tmp_path, "q4_0"), "--out", out, "--dry-run").error()
    assert "cannot be q4_0; what fits: f32, f16, int8, fp8, trt_int4_64" in told


def test_a_budget_chooses_among_tensorrts_formats(llama_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "budget.yaml"
    text = RECIPE.replace("solver: nearest, format: FORMAT", "solver: scale_search, target_mb: 0.17")
    path.write_text(text.split("evaluate:")[0] + "evaluate: null\nbench: null\nsamples: null\n", encoding="utf-8")
    out = tmp_path / "out"
    assert edgepress("run", llama_dir, "--recipe", path, "--out", out).code == 0
    sizes = sum(file.stat().st_size for file in (out / "tensorrt").iterdir())
    assert sizes <= 170_000
    formats = json.loads((out / "checkpoint" / "tensors.json").read_text(encoding="utf-8"))["tensors"]
    assert {"trt_int4_64", "f16"} <= {entry["format"] for entry in formats.values()}

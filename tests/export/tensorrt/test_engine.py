"""Engines that TensorRT-RTX really builds, without a GPU, and what is refused before it is asked."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from standard_graphs import checkpoint, exported
from tiny_models import make_model_dir

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.tensorrt_layout import DEFAULTS, TensorrtOptions
from edgepress.errors import EdgepressError, InputError
from edgepress.export.tensorrt.engine import build_engine, check_targets, resolve_targets

pytest.importorskip("tensorrt_rtx")

# Wide enough for the weights to outweigh the code.
WIDE: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 1, "head_dim": 64}


def built(source: Checkpoint, out: Path, capability: str, options: TensorrtOptions = DEFAULTS) -> bytes:
    directory = exported(source, out, options)
    record = build_engine(directory, capability)
    folder = directory / "engines" / capability
    assert json.loads((folder / "engine.json").read_text())["engine_bytes"] == record.engine_bytes
    engine = (folder / "model.engine").read_bytes()
    assert hashlib.sha256(engine).hexdigest() == record.engine_sha256
    return engine


def fused_attentions(engine: bytes) -> int:
    """Kernels that compute attention as one, over all layers and profiles."""
    return len(re.findall(rb"function=\{ name=_gemm_mha", engine))


@pytest.mark.parametrize("capability", ["sm86", "sm89", "sm120"])
def test_an_int4_model_builds_for_every_generation(capability: str, tmp_path: Path) -> None:
    source = checkpoint(make_model_dir("llama", tmp_path / "model"), tmp_path, "trt_int4_64")
    assert len(built(source, tmp_path, capability)) > 0


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_other_families_build(family: str, tmp_path: Path) -> None:
    layers: dict[str, Any] = {"layer_types": ["sliding_attention", "full_attention"]} if family == "gemma3" else {}
    model = make_model_dir(family, tmp_path / "model", num_hidden_layers=2, **layers)
    assert len(built(checkpoint(model, tmp_path), tmp_path, "sm89")) > 0


def test_int8_inputs_and_weights_build_for_the_oldest_gpus(llama_dir: Path, tmp_path: Path) -> None:
    assert len(built(checkpoint(llama_dir, tmp_path, "int8", rounds=True), tmp_path, "sm75")) > 0


@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("capability", ["sm89", "sm120"])
def test_fp8_weights_and_inputs_build_where_there_is_fp8(
    capability: str, rounds: bool, llama_dir: Path, tmp_path: Path
) -> None:
    source = checkpoint(llama_dir, tmp_path, "fp8", rounds=rounds)
    check_targets(source.plan(), (capability,))
    assert len(built(source, tmp_path, capability)) > 0
    with pytest.raises(InputError, match=r"target sm86: TensorRT cannot compute with fp8 there; it has f32 matrices, "):
        check_targets(source.plan(), ("sm86",))


def test_engines_hold_integers_and_multiply_them_in_one_kernel_with_fused_attention(tmp_path: Path) -> None:
    """TensorRT-RTX writes its program into the engine as text: kernels by name, and constants with their bytes."""
    engines = {}
    for body, rounds in (("f16", False), ("int8", True), ("trt_int4_64", False)):
        (tmp_path / body).mkdir()
        model = make_model_dir("llama", tmp_path / body / "model", **WIDE)
        engines[body] = built(checkpoint(model, tmp_path / body, body, rounds=rounds), tmp_path / body, "sm86")
    weights = 512 * (3 * 2048 + 4 * 64 + 4 * 64 + 2 * 2 * 64)
    saved = {body: len(engines["f16"]) - len(engine) for body, engine in engines.items()}
    assert 0.9 * weights < saved["int8"] < 1.1 * weights
    assert 0.9 * 1.46 * weights < saved["trt_int4_64"] < 1.1 * 1.46 * weights
    for engine in engines.values():
        assert fused_attentions(engine) == 1


def test_a_second_profile_is_the_code_again_and_not_the_weights(tmp_path: Path) -> None:
    source = checkpoint(make_model_dir("llama", tmp_path / "model", **WIDE), tmp_path)
    engines = {}
    for profiles in ("one", "two"):
        (tmp_path / profiles).mkdir()
        engines[profiles] = built(source, tmp_path / profiles, "sm86", TensorrtOptions(profiles=profiles))
    assert [fused_attentions(engine) for engine in engines.values()] == [1, 2]
    assert 0 < len(engines["two"]) - len(engines["one"]) < 2 << 20


def test_a_graph_that_is_none_is_one_line(llama_dir: Path, tmp_path: Path) -> None:
    directory = exported(checkpoint(llama_dir, tmp_path), tmp_path)
    (directory / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(EdgepressError, match=r"model\.onnx: TensorRT cannot read the graph: ") as caught:
        build_engine(directory, "sm86")
    assert "\n" not in str(caught.value)
    assert not (directory / "engines").exists()


def test_names_of_gpus_become_compute_capabilities_once_each() -> None:
    assert resolve_targets(["rtx-4090,SM86", "GeForce RTX 3060", "rtx_5090"]) == ("sm89", "sm86", "sm120")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gtx-1080", "unknown target 'gtx-1080'; known targets: "),
        ("jetson-orin-nano", "sm87 are built on the device itself; .*edgepress engine build"),
        ("sm110", "sm110 are built on the device itself"),
        ("jetson-nano", "does not support sm53"),
        (" , ", "--target names no GPU"),
    ],
)
def test_targets_that_cannot_be_built_for_say_what_to_do(name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        resolve_targets([name])


def test_number_types_that_a_gpu_lacks_are_refused_before_building(llama_dir: Path, tmp_path: Path) -> None:
    plan = checkpoint(llama_dir, tmp_path, "trt_int4_64").plan()
    check_targets(plan, ("sm80", "sm86", "sm89", "sm120", "sm121"))
    with pytest.raises(
        InputError, match=r"target sm75: TensorRT cannot compute with 4-bit formats there; it has f16, int8"
    ):
        check_targets(plan, ("sm86", "sm75"))

"""The hand-over to TensorRT Edge-LLM, unpacked by a plain reading of GPTQ's layout, nibble by nibble."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_checkpoint
from commands import edgepress
from safetensors.numpy import load_file, save_file
from tiny_models import make_model_dir

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import is_matrix
from edgepress.artifact.manifest import Lineage, build_manifest, list_files, write_manifest
from edgepress.errors import InputError, ParityError
from edgepress.export.edge_llm.writer import export_edge_llm, linear_names, verify_edge_llm
from edgepress.pipeline.stages import Output

SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}


def formats(name: str) -> str:
    if not is_matrix(name):
        return "f32"
    return "trt_int4_128" if ".layers." in name else "f16"


def checkpoint_of(family: str, place: Path, chosen: Any = formats, **sizes: Any) -> Checkpoint:
    student = make_model_dir(family, place / "student", **(SIZES | sizes))
    return write_checkpoint(student, place / "checkpoint", chosen)


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Path]:
    place = tmp_path_factory.mktemp(request.param)
    checkpoint, out = checkpoint_of(request.param, place), place / "out"
    out.mkdir()
    export_edge_llm(checkpoint, out)
    return checkpoint, out


def stored(out: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for file in sorted(out.glob("*.safetensors")):
        found |= load_file(file)
    return found


def plainly_unpacked(tensors: dict[str, np.ndarray], module: str) -> np.ndarray:
    """w[row, column] = scale[group, row] · (nibble − (zero nibble + 1)), as AutoGPTQ documents it."""
    qweight, qzeros = tensors[f"{module}.qweight"], tensors[f"{module}.qzeros"]
    scales, g_idx = tensors[f"{module}.scales"], tensors[f"{module}.g_idx"]
    columns, rows = qweight.shape[0] * 8, qweight.shape[1]
    found = np.zeros((rows, columns), np.float32)
    for column in range(columns):
        group = g_idx[column]
        for row in range(rows):
            code = (int(qweight[column // 8, row]) >> (4 * (column % 8))) & 15
            zero = ((int(qzeros[group, row // 8]) >> (4 * (row % 8))) & 15) + 1
            found[row, column] = np.float32(scales[group, row]) * np.float32(code - zero)
    return found


def test_the_integers_are_the_checkpoints_to_the_bit(made: tuple[Checkpoint, Path]) -> None:
    checkpoint, out = made
    tensors = stored(out)
    for name in linear_names(checkpoint.plan())[:7]:
        np.testing.assert_array_equal(plainly_unpacked(tensors, name.removesuffix(".weight")), checkpoint.read(name))


def test_shapes_types_and_settings_are_those_of_the_layout(made: tuple[Checkpoint, Path]) -> None:
    checkpoint, out = made
    tensors, config = stored(out), json.loads((out / "config.json").read_text("utf-8"))
    settings = config["quantization_config"]
    assert (settings["quant_method"], settings["bits"], settings["group_size"]) == ("gptq", 4, 128)
    assert settings["sym"] is True
    assert settings["desc_act"] is False
    module = "model.layers.0.mlp.down_proj"
    assert tensors[f"{module}.qweight"].shape == (256 // 8, 128)
    assert tensors[f"{module}.qzeros"].shape == (2, 128 // 8)
    assert set(tensors[f"{module}.qzeros"].view(np.uint32).ravel()) == {0x77777777}
    assert tensors[f"{module}.scales"].shape == (2, 128)
    types = {str(tensors[f"{module}.{part}"].dtype) for part in ("qweight", "qzeros", "g_idx")}
    assert types == {"int32"}
    floats = {name for name in tensors if name.endswith(".weight")}
    assert floats == set(checkpoint.names) - set(linear_names(checkpoint.plan())) - {
        name for name in checkpoint.names if name.endswith(".bias")
    }
    assert all(tensors[name].dtype == np.float16 for name in floats)
    index = json.loads((out / "model.safetensors.index.json").read_text("utf-8"))
    assert set(index["weight_map"]) == set(tensors)
    assert (out / "tokenizer.json").is_file()


def test_a_changed_nibble_is_found(made: tuple[Checkpoint, Path]) -> None:
    checkpoint, out = made
    files = sorted(out.glob("*.safetensors"))
    file = next(file for file in files if any("qweight" in name for name in load_file(file)))
    before = file.read_bytes()
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("qweight"))
    tensors[name][0, 0] ^= 1 << 12
    save_file(tensors, file)
    with pytest.raises(ParityError, match=name.removesuffix(".qweight")):
        verify_edge_llm(out, checkpoint)
    file.write_bytes(before)
    verify_edge_llm(out, checkpoint)


@pytest.mark.parametrize(
    ("family", "chosen", "sizes", "message"),
    [
        ("llama", lambda name: "trt_int4_64" if is_matrix(name) else "f32", {}, "embed_tokens.weight is trt_int4_64"),
        (
            "llama",
            lambda name: "q8_0" if "down_proj" in name else formats(name),
            {},
            r"down_proj.weight is q8_0 with float inputs; wanted trt_int4_128 \(groups of 128\) or f16",
        ),
        (
            "llama",
            lambda name: "f16" if is_matrix(name) else "f32",
            {},
            "no linear is trt_int4_128",
        ),
        ("llama", formats, {"head_dim": 8}, "rows; wanted a multiple of 64"),
        ("gemma3", formats, {}, "only llama, qwen2 and qwen3"),
    ],
)
def test_what_the_loader_could_not_hold_is_refused(
    tmp_path: Path, family: str, chosen: Any, sizes: dict[str, Any], message: str
) -> None:
    if "head_dim" in sizes:
        sizes = {"num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 8}
    checkpoint = checkpoint_of(family, tmp_path, chosen, **sizes)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=message):
        export_edge_llm(checkpoint, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_linear_may_stay_float16(tmp_path: Path) -> None:
    checkpoint = checkpoint_of("qwen3", tmp_path, lambda name: "f16" if "o_proj" in name else formats(name))
    (tmp_path / "out").mkdir()
    export_edge_llm(checkpoint, tmp_path / "out")
    tensors = stored(tmp_path / "out")
    name = "model.layers.1.self_attn.o_proj"
    assert f"{name}.qweight" not in tensors
    np.testing.assert_array_equal(tensors[f"{name}.weight"], checkpoint.read(f"{name}.weight"))


def test_the_command_writes_it_and_says_what_comes_next(tmp_path: Path) -> None:
    checkpoint_of("llama", tmp_path)
    done = edgepress("edge-llm", tmp_path / "checkpoint", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert "tensorrt-edgellm-export" in done.out
    assert (tmp_path / "out" / "edge-llm" / "config.json").is_file()
    assert "no checkpoint here" in edgepress("edge-llm", tmp_path / "student", "-o", tmp_path / "out2").error()


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    checkpoint_of("llama", tmp_path)
    with Output(tmp_path / "out").claim("export"):
        message = edgepress("edge-llm", tmp_path / "checkpoint", "-o", tmp_path / "out").error()
    assert "another edgepress run is writing here" in message


def test_what_another_command_wrote_is_refused(tmp_path: Path) -> None:
    checkpoint_of("llama", tmp_path)
    with Output(tmp_path / "out").claim("run"):
        (tmp_path / "out" / "edge-llm").mkdir()
    message = edgepress("edge-llm", tmp_path / "checkpoint", "-o", tmp_path / "out").error()
    assert "holds what 'edgepress compress' or 'run' wrote" in message
    assert not list((tmp_path / "out" / "edge-llm").iterdir())


def test_a_checkpoint_that_its_manifest_does_not_list_is_refused(tmp_path: Path) -> None:
    checkpoint_of("llama", tmp_path)
    source: dict[str, Any] = dict.fromkeys(("student", "student_source", "student_digest"), "")
    lineage = Lineage(**source, student_stored_types={}, student_notes=(), recipe={}, calibration_digest=None, tools={})
    plan = Checkpoint(tmp_path / "checkpoint").plan()
    write_manifest(build_manifest(plan, lineage, (), list_files(tmp_path, ["checkpoint"])), tmp_path)
    shard = next((tmp_path / "checkpoint").glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    message = edgepress("edge-llm", tmp_path, "-o", tmp_path / "out").error()
    assert "is not the file that manifest.json lists" in message
    assert not (tmp_path / "out").exists()

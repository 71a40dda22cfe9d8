"""W8A8 in ONNX Runtime: integer kernels whose results are those of the QDQ arithmetic in float64."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from checkpoints import write_checkpoint
from numpy.typing import NDArray
from tiny_models import make_model_dir

from edgepress.artifact.activations import write_activations
from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import LINEARS, is_matrix, layer_name
from edgepress.errors import ParityError
from edgepress.export.onnx.graph import Graph, Value
from edgepress.export.onnx.proto import DATA_FILE, serialize
from edgepress.export.onnx.qdq import static_product
from edgepress.export.onnx.verify import verify_onnx
from edgepress.export.onnx.writer import export_onnx, predict_onnx_bytes
from edgepress.export.parity import mean_divergence
from edgepress.runtime.ort_genai import OrtGenaiSession
from edgepress.runtime.torch_reference import TorchSession

TOKENS = [int(token) for token in np.random.default_rng(0).integers(3, 300, 60)]
# The place of each linear's input scale: those that share an input have one.
SHARING = {"attn_q": 0, "attn_k": 0, "attn_v": 0, "attn_output": 1, "ffn_gate": 2, "ffn_up": 2, "ffn_down": 3}


def w8a8(model: Path, out: Path, down: str = "int8") -> Checkpoint:
    """A checkpoint with int8 linears and made-up input scales, an 8-bit embedding and head."""

    def formats(name: str) -> str:
        if not is_matrix(name):
            return "f32"
        if not name.endswith("_proj.weight"):
            return "q8_0"
        return down if "down_proj" in name else "int8"

    source = write_checkpoint(model, out / "checkpoint", formats)
    scales = {
        layer_name(i, part): float(np.float16(0.01 + 0.003 * SHARING[role] + 0.001 * i))
        for i in range(source.spec.depth)
        for role, part in LINEARS.items()
        if source.format(layer_name(i, part)) == "int8"
    }
    write_activations(source.directory, scales)
    return Checkpoint(source.directory)


def exported(source: Checkpoint, out: Path) -> Path:
    directory = out / "onnx"
    directory.mkdir()
    export_onnx(source, directory)
    return directory


def optimized_operators(directory: Path, out: Path) -> Counter[str]:
    """What ONNX Runtime makes of a graph on the CPU."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(out / "optimized.onnx"), 3
    onnxruntime.InferenceSession(str(directory / "model.onnx"), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(str(out / "optimized.onnx"), load_external_data=False).graph
    return Counter(node.op_type for node in graph.node)


def products(directory: Path, spec: Any) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Input and output of every MatMul of the graph, as ONNX Runtime computes them, by the output's name."""
    model = onnx.load(str(directory / "model.onnx"), load_external_data=False)
    makers = {output: node for node in model.graph.node for output in node.output}
    inputs = {
        node.output[0]: makers[makers[node.input[0]].input[0]].input[0]
        for node in model.graph.node
        if node.op_type == "MatMul"
    }
    for name in sorted({*inputs, *inputs.values()}):
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    watched = directory / "watched.onnx"
    watched.write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(str(watched), providers=["CPUExecutionProvider"])
    feeds: dict[str, NDArray[Any]] = {
        "input_ids": np.asarray([TOKENS], np.int64),
        "attention_mask": np.ones((1, len(TOKENS)), np.int64),
    }
    for i, layer in enumerate(spec.layers):
        empty = np.zeros((1, layer.kv_heads, 0, spec.head_dim), np.float32)
        feeds |= {f"past_key_values.{i}.{side}": empty for side in ("key", "value")}
    wanted = sorted({*inputs, *inputs.values()})
    found = dict(zip(wanted, session.run(wanted, feeds), strict=True))
    return {output: (found[x], found[output]) for output, x in inputs.items()}


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
def test_every_product_is_that_of_the_integers_in_float64(family: str, tmp_path: Path) -> None:
    source = w8a8(make_model_dir(family, tmp_path / "model"), tmp_path)
    found = products(exported(source, tmp_path), source.spec)
    assert len(found) == 7 * source.spec.depth
    for output, (x, y) in found.items():
        place = output.removesuffix("/product").removeprefix("/layers.").replace("/", ".")
        name = f"model.layers.{place}.weight"
        tensor, scale = source.quantized(name), source.activation_scales[name]
        assert tensor is not None
        levels = np.clip(np.rint(x / np.float32(scale)), -128, 127).astype(np.int64)
        sums = levels @ (tensor.codes.astype(np.int64) - 128).T
        wanted = sums.astype(np.float64) * scale * tensor.scales[:, 0].astype(np.float64)
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())
        assert np.abs(levels).max() > 64


def test_onnx_runtime_multiplies_integers(family_dir: Path, tmp_path: Path) -> None:
    source = w8a8(family_dir, tmp_path)
    operators = optimized_operators(exported(source, tmp_path), tmp_path)
    assert operators["MatMulIntegerToFloat"] == 7 * source.spec.depth
    assert operators["QuantizeLinear"] == 4 * source.spec.depth
    assert operators["MatMul"] == operators["DequantizeLinear"] == 0


def test_the_logits_are_those_of_the_reference_with_rounded_inputs(family_dir: Path, tmp_path: Path) -> None:
    source = w8a8(family_dir, tmp_path)
    with TorchSession(source, threads=1) as session:
        simulated = session.prefill(TOKENS)
    source.activation_scales = {}
    with TorchSession(source, threads=1) as session:
        unrounded = session.prefill(TOKENS)
    with OrtGenaiSession(exported(w8a8(family_dir, tmp_path / "again"), tmp_path), context=256, threads=1) as session:
        found = session.prefill(TOKENS)
    assert mean_divergence(simulated, found) < 1e-3
    assert mean_divergence(simulated, found) < 0.1 * mean_divergence(unrounded, found)


def test_the_nodes_are_standard_onnx(tmp_path: Path) -> None:
    """The checker knows every operator and derives the shapes; the rest of the decoder has operators of its own."""
    graph = Graph()
    graph.inputs.append(Value(name="x", dtype="float32", shape=("tokens", 48)))
    for name in ("a", "b"):
        static_product(graph, "x", name, name=name, label=name, shape=(32, 48))
        graph.outputs.append(Value(name=name, dtype="float32", shape=("tokens", 32)))
    (tmp_path / DATA_FILE).write_bytes(bytes(graph.data_bytes))
    (tmp_path / "model.onnx").write_bytes(serialize(graph, "two"))
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    model = onnx.load(str(tmp_path / "model.onnx"))
    assert Counter(node.op_type for node in model.graph.node if not node.domain) == {
        "QuantizeLinear": 1,
        "DequantizeLinear": 3,
        "MatMul": 2,
    }
    assert {opset.version for opset in model.opset_import if not opset.domain} == {21}


def test_mixed_formats_and_biases(tmp_path: Path) -> None:
    model = make_model_dir("llama", tmp_path / "model", attention_bias=True, mlp_bias=True)
    source = w8a8(model, tmp_path, down="q8_0")
    directory = exported(source, tmp_path)
    verify_onnx(directory, source)
    assert optimized_operators(directory, tmp_path)["MatMulIntegerToFloat"] == 6 * source.spec.depth
    with TorchSession(source, threads=1) as session, OrtGenaiSession(directory, context=64, threads=1) as engine:
        assert mean_divergence(session.prefill(TOKENS), engine.prefill(TOKENS)) < 1e-3


def test_predicted_bytes_are_the_bytes_on_disk(family_dir: Path, tmp_path: Path) -> None:
    source = w8a8(family_dir, tmp_path)
    directory = exported(source, tmp_path)
    assert predict_onnx_bytes(source.plan()) == {path.name: path.stat().st_size for path in directory.iterdir()}


def test_a_processor_without_vnni_is_told_not_to_saturate(llama_dir: Path, tmp_path: Path) -> None:
    directory = exported(w8a8(llama_dir, tmp_path), tmp_path)
    options = json.loads((directory / "genai_config.json").read_text(encoding="utf-8"))["model"]["decoder"]
    assert options["session_options"]["session.x64quantprecision"] == "1"


def test_one_flipped_bit_in_any_initializer_is_found(tmp_path: Path) -> None:
    source = w8a8(make_model_dir("qwen2", tmp_path / "model", num_hidden_layers=1), tmp_path)
    directory = exported(source, tmp_path)
    verify_onnx(directory, source)
    data = directory / "model.onnx.data"
    original, random = data.read_bytes(), np.random.default_rng(0)
    graph = onnx.load(str(directory / "model.onnx"), load_external_data=False).graph
    for tensor in graph.initializer:
        place = {entry.key: int(entry.value) for entry in tensor.external_data if entry.key != "location"}
        if not place:
            continue
        damaged = bytearray(original)
        damaged[place["offset"] + int(random.integers(place["length"]))] ^= 1 << int(random.integers(8))
        data.write_bytes(damaged)
        with pytest.raises(ParityError):
            verify_onnx(directory, source)


def test_another_zero_point_is_found(llama_dir: Path, tmp_path: Path) -> None:
    source = w8a8(llama_dir, tmp_path)
    directory = exported(source, tmp_path)
    model = onnx.load(str(directory / "model.onnx"), load_external_data=False)
    zero = next(
        tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.UINT8 and tensor.raw_data
    )
    zero.raw_data = bytes([127])
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ParityError, match="rounds its input by another scale"):
        verify_onnx(directory, source)


def test_linears_that_share_an_input_but_not_its_scale_are_found(llama_dir: Path, tmp_path: Path) -> None:
    source = w8a8(llama_dir, tmp_path)
    k = layer_name(1, LINEARS["attn_k"])
    write_activations(source.directory, source.activation_scales | {k: 0.5})
    source = Checkpoint(source.directory)
    directory = exported(source, tmp_path)
    with pytest.raises(ParityError, match=r"1\.self_attn\.k_proj\.weight: the exported file rounds its input"):
        verify_onnx(directory, source)

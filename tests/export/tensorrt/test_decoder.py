"""Standard graphs for TensorRT: the checkpoint's values, in ONNX Runtime, give the logits of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from checkpoints import write_checkpoint
from standard_graphs import Graph, checkpoint, exported
from tiny_models import make_model_dir

from edgepress.artifact.checkpoint import Checkpoint, CheckpointWriter
from edgepress.artifact.families import is_matrix
from edgepress.artifact.weights import WeightSource
from edgepress.errors import InputError
from edgepress.export.parity import mean_divergence
from edgepress.export.tensorrt.support import check_tensorrt_support
from edgepress.export.tensorrt.writer import export_tensorrt, predict_tensorrt_bytes
from edgepress.runtime import torch_reference
from edgepress.runtime.ort_standard import OrtStandardSession
from edgepress.runtime.session import Logits
from edgepress.runtime.torch_reference import TorchSession, load_model

TOKENS = [int(token) for token in np.random.default_rng(0).integers(3, 300, 120)]
FORMATS = [
    ("f32", "f32"),
    ("f16", "f16"),
    ("int8", "int8"),
    ("fp8", "fp8"),
    ("trt_int4_64", "f16"),
    ("trt_int4_64", "trt_int4_64"),
]


def reference(source: Checkpoint, tokens: list[int]) -> Logits:
    with TorchSession(source, threads=1) as session:
        return session.prefill(tokens)


def logits_of(directory: Path, tokens: list[int]) -> Logits:
    with OrtStandardSession(directory, threads=1) as session:
        return session.prefill(tokens)


@pytest.mark.parametrize(("body", "head"), FORMATS)
def test_every_family_and_format_computes_what_torch_does(
    family_dir: Path, body: str, head: str, tmp_path: Path
) -> None:
    # 120 tokens: beyond gemma3's window of 16 and llama3's original context of 64.
    source = checkpoint(family_dir, tmp_path, body, head)
    assert mean_divergence(reference(source, TOKENS), logits_of(exported(source, tmp_path), TOKENS)) < 2e-6


def test_static_inputs_are_rounded_as_the_reference_rounds_them(family_dir: Path, tmp_path: Path) -> None:
    source = checkpoint(family_dir, tmp_path, "int8", rounds=True)
    rounded = reference(source, TOKENS)
    directory = exported(source, tmp_path)
    source.activation_scales = {}
    unrounded = mean_divergence(rounded, reference(source, TOKENS))
    assert mean_divergence(rounded, logits_of(directory, TOKENS)) < min(1e-3, unrounded / 5)


def test_static_fp8_inputs_differ_from_the_reference_by_what_float16_products_do(
    family_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value between two of E4M3's goes to the other one, an eighth away, when a product before it is off by 2^-11."""
    source = checkpoint(family_dir, tmp_path, "fp8", rounds=True)
    rounded, found = reference(source, TOKENS), logits_of(exported(source, tmp_path), TOKENS)
    generator = torch.Generator().manual_seed(0)

    def off(_module: torch.nn.Module, _inputs: Any, product: torch.Tensor) -> torch.Tensor:
        return product * (1 + 2.0**-11 * torch.rand(product.shape, generator=generator).mul(2).sub(1))

    def load(source: WeightSource) -> Any:
        model = load_model(source)
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(off)
        return model

    monkeypatch.setattr(torch_reference, "load_model", load)
    assert mean_divergence(rounded, found) < 2 * mean_divergence(rounded, reference(source, TOKENS))


@pytest.mark.parametrize("options", [{"attention_bias": True, "mlp_bias": True}, {"num_key_value_heads": 4}], ids=str)
def test_biases_and_heads_of_their_own_keys(options: dict[str, Any], tmp_path: Path) -> None:
    source = checkpoint(make_model_dir("llama", tmp_path / "model", **options), tmp_path, "trt_int4_64")
    assert mean_divergence(reference(source, TOKENS), logits_of(exported(source, tmp_path), TOKENS)) < 2e-6


def test_an_int4_head_of_an_odd_vocabulary_ends_its_rows_on_whole_bytes(tmp_path: Path) -> None:
    """TensorRT 10 wants an even last dimension of int4 (onnx-tensorrt 10.1, QuantDequantLinearHelper)."""
    model = make_model_dir("llama", tmp_path / "model", vocab_size=321, tie_word_embeddings=False)
    source = checkpoint(model, tmp_path, "trt_int4_64", "trt_int4_64")
    directory = exported(source, tmp_path)
    assert mean_divergence(reference(source, TOKENS), logits_of(directory, TOKENS)) < 2e-6
    initializers = onnx.load(str(directory / "model.onnx"), load_external_data=False).graph.initializer
    ends = {tensor.name: tensor.dims[-1] for tensor in initializers if tensor.data_type == onnx.TensorProto.INT4}
    assert ends["lm_head.blocks"] == 64
    assert not any(end % 2 for end in ends.values())


def test_decoding_step_by_step_gives_the_logits_of_a_prefill(family_dir: Path, tmp_path: Path) -> None:
    directory = exported(checkpoint(family_dir, tmp_path), tmp_path)
    with OrtStandardSession(directory, threads=1) as session:
        whole = session.prefill(TOKENS)
        session.reset()
        parts = [session.prefill(TOKENS[:50]), session.prefill(TOKENS[50:90])]
        steps = [session.decode(token)[None] for token in TOKENS[90:]]
        assert session.position == len(TOKENS)
    np.testing.assert_allclose(np.concatenate([*parts, *steps]), whole, atol=2e-3)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_a_batch_padded_on_the_left_decodes_as_each_by_itself(family: str, tmp_path: Path) -> None:
    source = checkpoint(make_model_dir(family, tmp_path / "model"), tmp_path)
    graph, prompts = Graph(exported(source, tmp_path)), (TOKENS[:30], TOKENS[30:41])
    ids, mask = [prompts[0], [0] * 19 + prompts[1]], [[1] * 30, [0] * 19 + [1] * 11]
    cache = graph.empty(2)
    for step in range(5):
        logits, cache = graph.run(ids, mask, cache)
        for row, prompt in enumerate(prompts):
            alone = reference(source, prompt + TOKENS[60 : 60 + step])[-1]
            np.testing.assert_allclose(logits[row, -1], alone, atol=0.02)
        assert np.isfinite(logits).all()
        ids, mask = [[TOKENS[60 + step]]] * 2, [[*row, 1] for row in mask]


def test_layers_of_different_shapes(llama_dir: Path, tmp_path: Path) -> None:
    """Layer 1 loses its second KV head, with the two query heads that use it, and 32 of 128 ffn channels."""
    source = write_checkpoint(llama_dir, tmp_path / "whole", lambda name: "f16" if is_matrix(name) else "f32")
    rows = {"q_proj": 32, "k_proj": 16, "v_proj": 16, "gate_proj": 96, "up_proj": 96}
    columns = {"o_proj": 32, "down_proj": 96}
    variants = {}
    for kind in ("cut", "masked"):
        (tmp_path / kind).mkdir()
        writer, tensors = CheckpointWriter(tmp_path / kind, 1), {}
        for name in source.names:
            values, part = source.read(name).copy(), name.split(".")[-2]
            if name.startswith("model.layers.1.") and values.ndim == 2:
                if kind == "cut":
                    values = values[: rows.get(part), : columns.get(part)]
                elif part in columns:
                    values[:, columns[part] :] = 0
            tensors[name] = values
        writer.write_shard(tensors, {name: source.format(name) for name in tensors})
        writer.finish(source.config, source.name)
        variants[kind] = Checkpoint(tmp_path / kind)
    pruned = variants["cut"]
    first, second = pruned.spec.layers
    second = msgspec.structs.replace(second, heads=2, kv_heads=1, ffn=96)
    pruned.spec = msgspec.structs.replace(pruned.spec, layers=(first, second))
    found = logits_of(exported(pruned, tmp_path), TOKENS)
    assert mean_divergence(reference(variants["masked"], TOKENS), found) < 2e-6


def test_graphs_are_standard_and_sizes_are_predicted(family_dir: Path, tmp_path: Path) -> None:
    source = checkpoint(family_dir, tmp_path, "trt_int4_64")
    directory = exported(source, tmp_path)
    onnx.checker.check_model(str(directory / "model.onnx"), full_check=True)
    model = onnx.load(str(directory / "model.onnx"), load_external_data=False)
    assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", 21)}
    assert predict_tensorrt_bytes(source.plan()) == {path.name: path.stat().st_size for path in directory.iterdir()}


@pytest.mark.parametrize(
    ("format", "fits"), [("q4_0", "f32, f16, int8, fp8, trt_int4_64"), ("trt_int4_128", "int8, fp8")]
)
def test_a_format_that_tensorrt_cannot_hold_is_refused_with_those_that_fit(
    format: str, fits: str, llama_dir: Path, tmp_path: Path
) -> None:
    plan = write_checkpoint(llama_dir, tmp_path / "checkpoint", lambda name: "f32").plan()
    tensors = tuple(
        msgspec.structs.replace(tensor, format=format) if tensor.name.endswith("q_proj.weight") else tensor
        for tensor in plan.tensors
    )
    with pytest.raises(InputError, match=rf"q_proj.weight, rows of 64 values, cannot be {format}; what fits: .*{fits}"):
        check_tensorrt_support(msgspec.structs.replace(plan, tensors=tensors))


def test_nothing_is_written_for_what_is_refused(llama_dir: Path, tmp_path: Path) -> None:
    source = write_checkpoint(llama_dir, tmp_path / "checkpoint", lambda name: "q4_0" if is_matrix(name) else "f32")
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError):
        export_tensorrt(source, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())

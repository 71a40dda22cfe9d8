"""The exported graph computes what transformers computes, in onnxruntime-genai."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest
from checkpoints import write_checkpoint
from numpy.typing import NDArray
from tiny_models import make_model_dir

from edgepress.artifact.checkpoint import Checkpoint, CheckpointWriter
from edgepress.artifact.families import is_matrix
from edgepress.errors import InputError
from edgepress.export.onnx.matmulnbits import held_formats
from edgepress.export.onnx.support import check_onnx_support
from edgepress.export.onnx.writer import export_onnx
from edgepress.export.parity import mean_divergence
from edgepress.runtime.ort_genai import OrtGenaiSession
from edgepress.runtime.session import Logits
from edgepress.runtime.torch_reference import TorchSession

Change = Callable[[str, NDArray[np.float32]], NDArray[np.float32]]

TOKENS = [int(token) for token in np.random.default_rng(0).integers(3, 300, 120)]


def checkpoint(model: Path, out: Path, body: str = "f32", head: str | None = None) -> Checkpoint:
    def formats(name: str) -> str:
        if not is_matrix(name):
            return "f32"
        return body if name.endswith("_proj.weight") else head or body

    return write_checkpoint(model, out / "checkpoint", formats)


def exported(source: Checkpoint, out: Path, **options: int) -> Path:
    directory = out / "onnx"
    directory.mkdir()
    export_onnx(source, directory, **options)
    return directory


def reference(source: Checkpoint, tokens: list[int]) -> Logits:
    with TorchSession(source, threads=1) as session:
        return session.prefill(tokens)


def onnx_logits(directory: Path, tokens: list[int], context: int = 256) -> Logits:
    with OrtGenaiSession(directory, context=context, threads=1) as session:
        return session.prefill(tokens)


def test_float_logits_of_every_family_match_transformers(family_dir: Path, tmp_path: Path) -> None:
    # 120 tokens: beyond gemma3's window of 16 and llama3's original context of 64.
    source = checkpoint(family_dir, tmp_path)
    found = onnx_logits(exported(source, tmp_path), TOKENS)
    assert mean_divergence(reference(source, TOKENS), found) < 1e-10


def test_decoding_step_by_step_gives_the_logits_of_a_prefill(family_dir: Path, tmp_path: Path) -> None:
    directory = exported(checkpoint(family_dir, tmp_path), tmp_path)
    with OrtGenaiSession(directory, context=256, threads=1) as session:
        at_once = session.prefill(TOKENS[:60])
        session.reset()
        steps = np.stack([*session.prefill(TOKENS[:20]), *(session.decode(token) for token in TOKENS[20:60])])
    np.testing.assert_allclose(steps, at_once, atol=2e-4)


@pytest.mark.parametrize("format", ["f16", *held_formats()])
@pytest.mark.parametrize("tied", [True, False])
def test_every_format_computes_with_the_values_of_the_checkpoint(format: str, tied: bool, tmp_path: Path) -> None:
    model = make_model_dir(
        "llama", tmp_path / "model", hidden_size=256, intermediate_size=256, tie_word_embeddings=tied
    )
    source = checkpoint(model, tmp_path, format)
    found = onnx_logits(exported(source, tmp_path, accuracy_level=0), TOKENS[:40])
    assert mean_divergence(reference(source, TOKENS[:40]), found) < 1e-10


def test_int8_activations_stay_close_in_every_family(family_dir: Path, tmp_path: Path) -> None:
    source = checkpoint(family_dir, tmp_path, "q4_0", "q8_0")
    found = onnx_logits(exported(source, tmp_path), TOKENS)
    assert mean_divergence(reference(source, TOKENS), found) < 0.02


@pytest.mark.parametrize(
    "options",
    [
        {"attention_bias": True, "mlp_bias": True},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
        {"model_type": "mistral", "sliding_window": 24, "head_dim": 32},
        {"num_key_value_heads": 4, "num_attention_heads": 4, "rms_norm_eps": 1e-3},
    ],
    ids="-".join,
)
@pytest.mark.parametrize("body", ["f32", "q8_0", "q4_1"])
def test_options_of_the_llama_family_match_transformers(options: dict[str, Any], body: str, tmp_path: Path) -> None:
    source = checkpoint(make_model_dir("llama", tmp_path / "model", **options), tmp_path, body, "f32")
    found = onnx_logits(exported(source, tmp_path, accuracy_level=0), TOKENS)
    assert mean_divergence(reference(source, TOKENS), found) < 1e-10


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize("head_dim", [8, 12, 16, 24, 48, 80])
def test_a_head_that_is_let_through_matches_and_no_other_is(family: str, head_dim: int, tmp_path: Path) -> None:
    source = checkpoint(make_model_dir(family, tmp_path / "model", head_dim=head_dim), tmp_path)
    try:
        check_onnx_support(source.plan())
    except InputError as error:
        assert f"multiple of 8, not {head_dim}" in str(error)
        assert head_dim % 8
        return
    directory, wanted = exported(source, tmp_path, accuracy_level=0), reference(source, TOKENS)
    assert mean_divergence(wanted, onnx_logits(directory, TOKENS)) < 1e-10
    with OrtGenaiSession(directory, context=256, threads=1) as session:
        parts = [session.prefill(TOKENS[:50]), session.prefill(TOKENS[50:117])]
        steps = [session.decode(token)[None] for token in TOKENS[117:]]
    assert mean_divergence(wanted, np.concatenate([*parts, *steps])) < 1e-10


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize("head_dim", [8, 16])
def test_prompts_of_unequal_length_in_a_batch_decode_as_each_by_itself(
    family: str, head_dim: int, tmp_path: Path
) -> None:
    """As onnxruntime-genai runs a batch: prompts padded on the right, then a token of each at a time."""
    source = checkpoint(make_model_dir(family, tmp_path / "model", head_dim=head_dim), tmp_path)
    session = onnxruntime.InferenceSession(exported(source, tmp_path, accuracy_level=0) / "model.onnx")
    prompts, answers = (TOKENS[:20], TOKENS[20:28]), (TOKENS[30:35], TOKENS[40:45])
    ids = np.array([prompts[0], prompts[1] + [0] * 12], np.int64)
    mask = np.array([[1] * 20, [1] * 8 + [0] * 12], np.int64)
    past = empty_cache(source, batch=2)
    for step in range(6):
        logits, *caches = session.run(None, {"input_ids": ids, "attention_mask": mask} | past)
        past = dict(zip(past, caches, strict=True))
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            alone = reference(source, [*prompt, *answer[:step]])[-1]
            at = len(prompt) - 1 if step == 0 else 0
            np.testing.assert_allclose(logits[row, at], alone, atol=2e-4)
        if step < 5:
            ids = np.array([[answer[step]] for answer in answers], np.int64)
            mask = np.array([[1] * (len(prompt) + step + 1) + [0] * (20 - len(prompt)) for prompt in prompts], np.int64)


def empty_cache(source: Checkpoint, batch: int) -> dict[str, NDArray[np.float32]]:
    return {
        f"past_key_values.{i}.{side}": np.zeros((batch, layer.kv_heads, 0, source.spec.head_dim), np.float32)
        for i, layer in enumerate(source.spec.layers)
        for side in ("key", "value")
    }


def test_q_k_and_v_of_different_formats_match_transformers(tmp_path: Path) -> None:
    model = make_model_dir("qwen2", tmp_path / "model")
    roles = {"q_proj.weight": "q4_0", "k_proj.weight": "f16", "v_proj.weight": "q5_0", "up_proj.weight": "q5_1"}

    def formats(name: str) -> str:
        return next((format for role, format in roles.items() if name.endswith(role)), "f32")

    source = write_checkpoint(model, tmp_path / "checkpoint", formats)
    found = onnx_logits(exported(source, tmp_path, accuracy_level=0), TOKENS)
    assert mean_divergence(reference(source, TOKENS), found) < 1e-10


def _changed(source: Checkpoint, out: Path, change: Change) -> Checkpoint:
    out.mkdir()
    writer = CheckpointWriter(out, 1)
    tensors = {name: change(name, source.read(name)) for name in source.names}
    writer.write_shard(tensors, dict.fromkeys(tensors, "f32"))
    writer.finish(source.config, source.name)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (out / name).write_bytes((source.directory / name).read_bytes())
    return Checkpoint(out)


def test_layers_of_different_shapes_match_the_masked_model(llama_dir: Path, tmp_path: Path) -> None:
    """Layer 1 loses its second KV head, with the two query heads that use it, and 32 of 128 ffn channels."""
    source = checkpoint(llama_dir, tmp_path)
    kept_heads, kept_ffn, place = 2 * 16, 96, "model.layers.1."

    def mask(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        values = values.copy()
        if name == place + "self_attn.o_proj.weight":
            values[:, kept_heads:] = 0
        if name == place + "mlp.down_proj.weight":
            values[:, kept_ffn:] = 0
        return values

    def cut(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        rows = {"q_proj": kept_heads, "k_proj": 16, "v_proj": 16, "gate_proj": kept_ffn, "up_proj": kept_ffn}
        columns = {"o_proj": kept_heads, "down_proj": kept_ffn}
        part = name.split(".")[-2]
        if not name.startswith(place):
            return values
        return values[: rows.get(part), : columns.get(part)] if values.ndim == 2 else values

    masked, pruned = _changed(source, tmp_path / "masked", mask), _changed(source, tmp_path / "pruned", cut)
    first, second = pruned.spec.layers
    second = msgspec.structs.replace(second, heads=2, kv_heads=1, ffn=kept_ffn)
    pruned.spec = msgspec.structs.replace(pruned.spec, layers=(first, second))
    directory = exported(pruned, tmp_path)
    assert mean_divergence(reference(masked, TOKENS), onnx_logits(directory, TOKENS)) < 1e-10
    with OrtGenaiSession(directory, context=64, threads=1) as session:
        assert session.memory().kv_cache_bytes == pruned.spec.kv_cache_bytes(64, 4)


def test_the_exported_directory_talks_in_onnxruntime_genai(llama_dir: Path, tmp_path: Path) -> None:
    genai = pytest.importorskip("onnxruntime_genai")
    directory = exported(checkpoint(llama_dir, tmp_path), tmp_path)
    model = genai.Model(str(directory))
    tokenizer = genai.Tokenizer(model)
    text = "Pack my box, lazy dog"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    chat = tokenizer.apply_chat_template(json.dumps([{"role": "user", "content": "Hi"}]), add_generation_prompt=True)
    assert chat == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=32)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(ids)
    answer = []
    while not generator.is_done():
        generator.generate_next_token()
        answer.append(int(generator.get_next_tokens()[0]))
    assert answer == _greedy(directory, [int(token) for token in ids], len(answer))


def _greedy(directory: Path, prompt: list[int], count: int) -> list[int]:
    with OrtGenaiSession(directory, context=64, threads=1) as session:
        logits, answer = session.prefill(prompt, logits="last")[0], []
        for _ in range(count):
            answer.append(int(logits.argmax()))
            logits = session.decode(answer[-1])
    return answer

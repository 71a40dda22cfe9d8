"""Exported files in the real engine and under the reference reader."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_checkpoint
from ggml_oracle import ggml_dequantize
from numpy.typing import NDArray
from tiny_models import make_model_dir

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import is_matrix
from edgepress.errors import ParityError
from edgepress.export.gguf import export_gguf, predict_gguf_bytes, verify_gguf

gguf = pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")

Exported = tuple[Checkpoint, Path]
TOKENS = 200  # beyond gemma3's window of 16 and llama3's original context of 64


def test_logits_in_llama_cpp_are_those_of_torch(float_export: Exported) -> None:
    checkpoint, path = float_export
    tokens = _tokens(checkpoint.spec.vocab)
    assert _mean_kld(_torch_logits(checkpoint.directory, tokens), _engine_logits(path, tokens)) < 1e-5


def test_quantized_logits_differ_only_by_the_engines_eight_bit_activations(mixed_export: Exported) -> None:
    checkpoint, path = mixed_export
    tokens = _tokens(checkpoint.spec.vocab)
    assert _mean_kld(_torch_logits(checkpoint.directory, tokens), _engine_logits(path, tokens)) < 1e-3


def test_k_types_run_where_the_widths_allow_them(tmp_path: Path) -> None:
    model = make_model_dir("llama", tmp_path / "model", hidden_size=256, intermediate_size=256, num_attention_heads=4)
    kinds = ("q4_K", "q5_K", "q6_K", "iq4_xs", "q3_K")
    checkpoint = write_checkpoint(
        model, tmp_path / "checkpoint", lambda name: kinds[len(name) % 5] if is_matrix(name) else "f32"
    )
    export_gguf(checkpoint, tmp_path / "model.gguf")
    verify_gguf(tmp_path / "model.gguf", checkpoint)
    tokens = _tokens(checkpoint.spec.vocab)
    reference = _torch_logits(checkpoint.directory, tokens)
    # The engine rounds activations to 8 bits per 256 values here; a wrong layout would cost whole nats.
    assert _mean_kld(reference, _engine_logits(tmp_path / "model.gguf", tokens)) < 2e-2


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_linear_rope_scaling_reaches_the_engine(family: str, tmp_path: Path) -> None:
    scaled = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    local = {"rope_type": "default", "rope_theta": 20000.0}
    parameters = {"full_attention": scaled, "sliding_attention": local} if family == "gemma3" else scaled
    assert _float_kld(family, tmp_path, rope_parameters=parameters) < 1e-5


def test_a_window_beyond_the_context_keeps_the_rotation_of_its_layers(tmp_path: Path) -> None:
    assert _float_kld("gemma3", tmp_path, sliding_window=4096) < 1e-5


def test_biases_of_a_llama_are_reordered_with_their_rows(tmp_path: Path) -> None:
    assert _float_kld("llama", tmp_path, attention_bias=True, mlp_bias=True) < 1e-5


def test_predicted_size_is_the_size_on_disk(mixed_export: Exported) -> None:
    checkpoint, path = mixed_export
    assert predict_gguf_bytes(checkpoint.plan()) == path.stat().st_size


def test_the_same_checkpoint_gives_the_same_bytes_anywhere(mixed_export: Exported, tmp_path: Path) -> None:
    checkpoint, path = mixed_export
    moved = shutil.copytree(checkpoint.directory, tmp_path / "elsewhere")
    export_gguf(Checkpoint(moved), tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == path.read_bytes()


def test_reference_reader_finds_the_values_in_llama_cpps_row_order(mixed_export: Exported) -> None:
    checkpoint, path = mixed_export
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    name = "blk.1.attn_k.weight"
    data = stored[name].data
    kind = checkpoint.format("model.layers.1.self_attn.k_proj.weight")
    values = data.astype(np.float32) if kind in ("f32", "f16") else ggml_dequantize(kind, data)
    expected = checkpoint.read("model.layers.1.self_attn.k_proj.weight")
    if checkpoint.config["model_type"] == "llama":
        expected = _interleave(expected, checkpoint.spec.layers[1].kv_heads)
    assert np.array_equal(values, expected)


def test_vectors_are_float32_and_a_tied_head_is_left_out(mixed_export: Exported) -> None:
    checkpoint, path = mixed_export
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for name, tensor in tensors.items():
        if name.endswith(("_norm.weight", ".bias", "rope_freqs.weight")):
            assert tensor.tensor_type.name == "F32", name
    assert ("output.weight" in tensors) != checkpoint.spec.tied
    assert ("rope_freqs.weight" in tensors) == (checkpoint.spec.rope.scaling == "llama3")


def test_verification_accepts_what_was_written(mixed_export: Exported) -> None:
    verify_gguf(mixed_export[1], mixed_export[0])


def test_verification_names_the_tensor_with_one_wrong_bit(mixed_export: Exported, tmp_path: Path) -> None:
    checkpoint, path = mixed_export
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == "blk.0.ffn_down.weight")
    data = bytearray(path.read_bytes())
    data[int(tensor.data_offset) + 5] ^= 1
    (tmp_path / "flipped.gguf").write_bytes(data)
    with pytest.raises(ParityError, match=r"blk\.0\.ffn_down\.weight: 1 of \d+ \w+ differ"):
        verify_gguf(tmp_path / "flipped.gguf", checkpoint)


def test_verification_notices_a_checkpoint_of_another_format(mixed_export: Exported, tmp_path: Path) -> None:
    checkpoint, path = mixed_export
    other = write_checkpoint(checkpoint.directory, tmp_path / "other", lambda _: "f32")
    with pytest.raises(ParityError, match="the checkpoint has f32"):
        verify_gguf(path, other)


def _float_kld(family: str, working: Path, **options: Any) -> float:
    """Export a tiny model in float32, verify the file, and compare its logits in llama.cpp with torch's."""
    model = make_model_dir(family, working / "model", **options)
    checkpoint = write_checkpoint(model, working / "checkpoint", lambda _: "f32")
    export_gguf(checkpoint, working / "model.gguf")
    verify_gguf(working / "model.gguf", checkpoint)
    tokens = _tokens(checkpoint.spec.vocab)
    return _mean_kld(_torch_logits(checkpoint.directory, tokens), _engine_logits(working / "model.gguf", tokens))


def _tokens(vocab: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(0).integers(4, vocab, TOKENS)]


def _torch_logits(directory: Path, tokens: list[int]) -> NDArray[np.float64]:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        logits: Any = model(torch.tensor([tokens])).logits[0]
    return np.asarray(logits.numpy(), dtype=np.float64)


def _engine_logits(path: Path, tokens: list[int]) -> NDArray[np.float64]:
    from edgepress.runtime.llamacpp import LlamaCppSession

    with LlamaCppSession(path, threads=1) as session:
        return session.prefill(tokens).astype(np.float64)


def _mean_kld(reference: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    p, q = (x - np.logaddexp.reduce(x, axis=1, keepdims=True) for x in (reference, other))
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def _interleave(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Halves of each head → neighbouring pairs, written out row by row."""
    size = len(rows) // heads
    out = np.empty_like(rows)
    for head in range(heads):
        for j in range(size // 2):
            out[head * size + 2 * j] = rows[head * size + j]
            out[head * size + 2 * j + 1] = rows[head * size + size // 2 + j]
    return out

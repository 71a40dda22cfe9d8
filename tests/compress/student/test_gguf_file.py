"""GGUF students against the Hugging Face model that they were written from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_checkpoint
from ggml_oracle import ggml_dequantize, ggml_quantize
from numpy.typing import NDArray
from tiny_models import make_model_dir

from edgepress.artifact.hf_config import model_spec
from edgepress.compress.student.gguf_file import GgufFile
from edgepress.compress.student.hf_directory import HfDirectory
from edgepress.errors import InputError
from edgepress.export.gguf import export_gguf

ALIGNMENT = 32


def test_weights_names_and_spec_are_those_of_the_hugging_face_model(
    family_dir: Path, tmp_path: Path, write_gguf: Any
) -> None:
    original = HfDirectory(family_dir)
    student = GgufFile(write_gguf(family_dir, tmp_path / "tiny.gguf"))
    assert student.spec == original.spec
    assert student.names == original.names
    assert student.parameters == original.parameters
    for name in original.names:
        assert student.shape(name) == original.shape(name)
        # Gemma's norms went through w + 1 in float32 and back.
        tolerance = 1.2e-7 if student.spec.family == "gemma3" and name.endswith("norm.weight") else 0.0
        np.testing.assert_allclose(student.read(name), original.read(name), rtol=0, atol=tolerance)


def test_transformers_runs_the_rebuilt_configuration_to_the_same_logits(
    family_dir: Path, tmp_path: Path, write_gguf: Any
) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    student = GgufFile(write_gguf(family_dir, tmp_path / "tiny.gguf"))
    (tmp_path / "config.json").write_text(json.dumps(student.config))
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path), dtype=torch.float32)
    state = {name: torch.from_numpy(student.read(name)) for name in student.names}
    if student.spec.tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    reference = AutoModelForCausalLM.from_pretrained(family_dir, dtype=torch.float32)
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        difference = (model.eval()(tokens).logits - reference.eval()(tokens).logits).abs().max()
    assert float(difference) < 1e-5


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"])
def test_quantized_weights_come_back_as_the_gguf_package_decodes_them(
    kind: str, tmp_path: Path, write_gguf: Any
) -> None:
    import gguf

    directory = make_model_dir("qwen3", tmp_path / "student")
    student = GgufFile(write_gguf(directory, tmp_path / "tiny.gguf", matrix_type=kind))
    original = HfDirectory(directory)
    for name in student.names:
        wanted = original.read(name)
        if wanted.ndim == 2:
            quantized = gguf.quants.quantize(wanted, gguf.GGMLQuantizationType[kind])
            wanted = gguf.quants.dequantize(quantized, gguf.GGMLQuantizationType[kind])
        assert student.stored_types[name] == (kind if wanted.ndim == 2 else "F32")
        np.testing.assert_array_equal(student.read(name), wanted)


@pytest.mark.parametrize("format", ["q4_K", "q5_K", "q6_K", "q3_K", "iq4_xs"])
def test_super_blocks_come_back_as_the_gguf_package_decodes_ggmls(format: str, tmp_path: Path) -> None:
    directory = make_model_dir("qwen3", tmp_path / "student", hidden_size=256, intermediate_size=256)
    original = HfDirectory(directory)
    widths = {name: original.shape(name)[-1] for name in original.names if len(original.shape(name)) == 2}
    packed = {name for name, width in widths.items() if width % 256 == 0}
    checkpoint = write_checkpoint(directory, tmp_path / "out", lambda name: format if name in packed else "f32")
    export_gguf(checkpoint, tmp_path / "tiny.gguf")
    student = GgufFile(tmp_path / "tiny.gguf")
    for name in packed:
        assert student.stored_types[name] == format.upper()
        wanted = ggml_dequantize(format, ggml_quantize(format, original.read(name)))
        np.testing.assert_array_equal(student.read(name), wanted)


def test_rows_of_a_quantized_llama_are_reordered_whole(llama_dir: Path, tmp_path: Path, write_gguf: Any) -> None:
    student = GgufFile(write_gguf(llama_dir, tmp_path / "tiny.gguf", matrix_type="Q8_0"))
    original = HfDirectory(llama_dir)
    for name in original.names:
        scale = np.abs(original.read(name)).max()
        np.testing.assert_allclose(student.read(name), original.read(name), rtol=0, atol=scale / 127 * 0.51)


def test_quantized_weights_are_noted_and_float_ones_are_not(llama_dir: Path, tmp_path: Path, write_gguf: Any) -> None:
    (note,) = GgufFile(write_gguf(llama_dir, tmp_path / "q.gguf", matrix_type="Q4_1")).notes
    assert "already quantized (Q4_1: 15 tensors)" in note
    assert GgufFile(write_gguf(llama_dir, tmp_path / "h.gguf", matrix_type="BF16")).notes == ()


def test_a_copied_head_is_dropped_and_a_different_one_is_kept(llama_dir: Path, tmp_path: Path, write_gguf: Any) -> None:
    embedding = HfDirectory(llama_dir).read("model.embed_tokens.weight")
    copied = GgufFile(write_gguf(llama_dir, tmp_path / "copied.gguf", tensors={"output.weight": embedding}))
    assert copied.spec.tied
    assert "lm_head.weight" not in copied.names
    own = GgufFile(write_gguf(llama_dir, tmp_path / "own.gguf", tensors={"output.weight": embedding * 2}))
    assert not own.spec.tied
    np.testing.assert_array_equal(own.read("lm_head.weight"), embedding * 2)


def test_linear_rope_scaling_and_biases_come_back(tmp_path: Path, write_gguf: Any) -> None:
    rope = {"rope_type": "linear", "rope_theta": 5e5, "factor": 4.0}
    directory = make_model_dir("llama", tmp_path / "s", rope_parameters=rope, attention_bias=True, mlp_bias=True)
    student = GgufFile(write_gguf(directory, tmp_path / "tiny.gguf"))
    original = HfDirectory(directory)
    assert student.spec == original.spec
    assert student.spec.rope.factor == 4.0
    for name in ("self_attn.q_proj.bias", "self_attn.o_proj.bias", "mlp.down_proj.bias"):
        full = f"model.layers.1.{name}"
        np.testing.assert_array_equal(student.read(full), original.read(full))


def test_a_sliding_window_pattern_may_be_a_period_or_a_list(tmp_path: Path, write_gguf: Any) -> None:
    directory = make_model_dir("gemma3", tmp_path / "s")
    key = "gemma3.attention.sliding_window_pattern"
    period = GgufFile(write_gguf(directory, tmp_path / "period.gguf", metadata={key: 2}))
    assert [layer.window for layer in period.spec.layers] == [16, None, 16, None, 16, None, 16]
    listed = GgufFile(write_gguf(directory, tmp_path / "list.gguf", metadata={key: [True] * 3 + [False] * 4}))
    assert [layer.window for layer in listed.spec.layers] == [16] * 3 + [None] * 4


def test_no_mapping_of_the_file_stays_open(llama_dir: Path, tmp_path: Path, write_gguf: Any) -> None:
    student = GgufFile(write_gguf(llama_dir, tmp_path / "tiny.gguf"))
    held = [student.read(name) for name in student.names]
    assert held
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def _absent(name: str) -> dict[str, NDArray[Any] | None]:
    return {name: None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metadata": {"general.architecture": "qwen3moe"}}, r"'qwen3moe' is not supported; supported: llama, qwen2"),
        ({"metadata": {"split.count": 3}}, r"split into 3; merge them first"),
        ({"metadata": {"llama.expert_count": 8}}, r"llama\.expert_count = 8 is not supported"),
        ({"metadata": {"llama.block_count": 2**31}}, r"block_count must be an integer from 1 to 4096, got 2147483648"),
        ({"metadata": {"llama.block_count": 3}}, r"model\.layers\.2\.input_layernorm\.weight \[64\] is missing"),
        ({"metadata": {"llama.context_length": None}}, r"llama\.context_length is missing"),
        ({"metadata": {"llama.embedding_length": 96}}, r"shape \[\d+, 64\], the configuration asks for \[\d+, 96\]"),
        ({"metadata": {"llama.feed_forward_length": [96, 128]}}, r"differs from layer to layer \(96 to 128\)"),
        ({"metadata": {"llama.rope.dimension_count": 8}}, r"rope\.dimension_count = 8 .* head dimension is 16"),
        ({"metadata": {"llama.rope.scaling.type": "yarn"}}, r"'yarn' is not supported; supported: none, linear"),
        ({"metadata": {"llama.attention.layer_norm_rms_epsilon": "x"}}, r"must be a finite number, got 'x'"),
        ({"metadata": {"tokenizer.ggml.model": None}}, r"the file has no tokenizer"),
        ({"metadata": {"tokenizer.ggml.model": "t5"}}, r"'t5' is not supported; supported: gpt2, llama"),
        ({"metadata": {"tokenizer.ggml.pre": "martian"}}, r"pre = 'martian' is not supported; supported: gpt-2"),
        ({"metadata": {"tokenizer.ggml.tokens": ["a", "b"]}}, r"has 2 tokens, but the embedding has \d+ rows"),
        ({"metadata": {"tokenizer.ggml.merges": ["nothing"]}}, r"has the merge 'nothing'"),
        ({"tensors": _absent("blk.1.ffn_up.weight")}, r"model\.layers\.1\.mlp\.up_proj\.weight \[128, 64\] is missing"),
        ({"tensors": _absent("token_embd.weight")}, r"token_embd\.weight is missing; it has 19 tensors"),
        ({"tensors": {"blk.0.ffn_gate_inp.weight": np.ones((4, 64), np.float32)}}, r"unexpected tensor 'blk\.0\.ffn_"),
        ({"tensors": {"blk.0.attn_norm.weight": np.ones(32, np.float32)}}, r"shape \[32\], the .* asks for \[64\]"),
        ({"tensors": {"blk.0.attn_norm.weight": np.ones(64, np.int32)}}, r"is stored as I32, which is not supported"),
        ({"tensors": {"rope_freqs.weight": np.linspace(1, 3, 8, dtype=np.float32)}}, r"none that edgepress knows"),
        ({"tensors": {"rope_freqs.weight": np.ones(5, np.float32)}}, r"has 5 values for a head dimension of 16"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_in_one_line(
    changes: dict[str, Any], message: str, llama_dir: Path, tmp_path: Path, write_gguf: Any
) -> None:
    path = write_gguf(llama_dir, tmp_path / "tiny.gguf", **changes)
    with pytest.raises(InputError, match=message) as caught:
        GgufFile(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_nan_and_infinity_are_reported_by_tensor_and_count(llama_dir: Path, tmp_path: Path, write_gguf: Any) -> None:
    norm = np.ones(64, np.float32)
    norm[3], norm[9] = np.nan, -np.inf
    student = GgufFile(write_gguf(llama_dir, tmp_path / "tiny.gguf", tensors={"blk.1.ffn_norm.weight": norm}))
    with pytest.raises(
        InputError, match=r"layers\.1\.post_attention_layernorm\.weight has 2 values of 64 that are NaN"
    ):
        student.read("model.layers.1.post_attention_layernorm.weight")


def test_the_rebuilt_specification_does_not_depend_on_the_head_count_kv_being_there(
    tmp_path: Path, write_gguf: Any
) -> None:
    directory = make_model_dir("llama", tmp_path / "s", num_key_value_heads=4)
    path = write_gguf(directory, tmp_path / "tiny.gguf", metadata={"llama.attention.head_count_kv": None})
    assert GgufFile(path).spec == model_spec(HfDirectory(directory).config)

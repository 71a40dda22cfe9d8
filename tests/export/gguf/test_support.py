"""Models that llama.cpp would compute differently are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tiny_models import make_model_dir

from edgepress.artifact.families import layer_name
from edgepress.artifact.hf_config import model_spec
from edgepress.artifact.plan import ModelPlan, TensorPlan
from edgepress.errors import InputError
from edgepress.export.gguf.support import check_gguf_support


def _plan(family: str, tmp_path: Path, **options: Any) -> ModelPlan:
    import json

    directory = make_model_dir(family, tmp_path / "model", **options)
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return ModelPlan(name="tiny", spec=model_spec(config), config=config, tokenizer_dir=directory, tensors=())


def _changed(plan: ModelPlan, **fields: Any) -> ModelPlan:
    return msgspec.structs.replace(plan, spec=msgspec.structs.replace(plan.spec, **fields))


@pytest.mark.parametrize("family", ["llama", "llama3", "qwen2", "qwen3", "gemma3"])
def test_every_family_as_it_comes_is_accepted(family: str, tmp_path: Path) -> None:
    check_gguf_support(_plan(family, tmp_path))


def test_sliding_windows_where_llama_cpp_has_none(tmp_path: Path) -> None:
    plan = _plan("llama", tmp_path)
    layers = tuple(msgspec.structs.replace(layer, window=32) for layer in plan.spec.layers)
    with pytest.raises(InputError, match="sliding window of 32 tokens"):
        check_gguf_support(_changed(plan, layers=layers))


def test_a_global_layer_in_the_wrong_place(tmp_path: Path) -> None:
    types = ["sliding_attention", "full_attention", *["sliding_attention"] * 3, "full_attention", "sliding_attention"]
    with pytest.raises(InputError, match="layer 1 breaks the pattern of one global layer in 6"):
        check_gguf_support(_plan("gemma3", tmp_path, layer_types=types))


def test_widths_that_differ_from_layer_to_layer(tmp_path: Path) -> None:
    plan = _plan("qwen3", tmp_path)
    first, second = plan.spec.layers
    with pytest.raises(InputError, match=r"differ from layer to layer.* for llama models only, not for qwen3"):
        check_gguf_support(_changed(plan, layers=(first, msgspec.structs.replace(second, ffn=96))))


def test_attention_scaled_in_another_way(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"attention scaled by 0\.0625 \(it scales by 0\.176777\)"):
        check_gguf_support(_plan("gemma3", tmp_path, query_pre_attn_scalar=256))


def test_the_depth_at_which_llama_cpp_changes_the_attention_scale(tmp_path: Path) -> None:
    plan = _plan("gemma3", tmp_path, head_dim=16, query_pre_attn_scalar=16)
    deep = tuple(
        msgspec.structs.replace(plan.spec.layers[5 if i % 6 == 5 else 0], heads=2, kv_heads=1) for i in range(62)
    )
    with pytest.raises(InputError, match=r"attention scaled by 0\.25 \(it scales by 0\.176777\)"):
        check_gguf_support(_changed(plan, layers=deep))


def test_heads_that_do_not_fill_the_hidden_size_of_a_qwen2(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="4 heads of 32 are not the hidden size 64"):
        check_gguf_support(_changed(_plan("qwen2", tmp_path), head_dim=32, attention_scale=32**-0.5))


def test_llama3_scaling_outside_llama(tmp_path: Path) -> None:
    plan = _plan("qwen3", tmp_path)
    rope = msgspec.structs.replace(plan.spec.rope, scaling="llama3", factor=8.0)
    with pytest.raises(InputError, match="llama3 rope scaling"):
        check_gguf_support(_changed(plan, rope=rope))


def test_a_bias_that_llama_cpp_would_not_add(tmp_path: Path) -> None:
    bias = TensorPlan(name=layer_name(0, "self_attn.o_proj", "bias"), shape=(64,), format="f32")
    plan = msgspec.structs.replace(_plan("qwen3", tmp_path), tensors=(bias,))
    with pytest.raises(InputError, match=r"tensor model\.layers\.0\.self_attn\.o_proj\.bias"):
        check_gguf_support(plan)


def test_another_activation(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"activation gelu_tanh \(it computes silu\)"):
        check_gguf_support(_changed(_plan("llama", tmp_path), activation="gelu_tanh"))

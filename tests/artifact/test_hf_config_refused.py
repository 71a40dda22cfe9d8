"""What of a ``config.json`` is refused, each by its name."""

from __future__ import annotations

import math
from typing import Any

import pytest

from edgepress.artifact.hf_config import model_spec
from edgepress.errors import InputError

Config = dict[str, Any]
_SIZES: Config = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}
_LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}

REFUSED: dict[str, tuple[Config, str]] = {
    "mixture of experts by type": ({"model_type": "mixtral"}, r"unsupported model family 'mixtral'.*supported: llama"),
    "mixture of experts by class": (
        {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]},
        r"'Qwen3MoeForCausalLM' \(model_type 'qwen3_moe'\)",
    ),
    "experts in a llama": ({"num_local_experts": 8}, "num_local_experts = 8 is not supported for llama models"),
    "experts in a qwen": ({"model_type": "qwen3", "num_experts": 64}, "num_experts = 64 is not supported for qwen3"),
    "soft caps on logits": (
        {"model_type": "gemma3_text", "final_logit_softcapping": 30.0},
        "final_logit_softcapping = 30.0 is not supported",
    ),
    "soft caps on attention": (
        {"model_type": "gemma3_text", "attn_logit_softcapping": 50.0},
        "attn_logit_softcapping = 50.0",
    ),
    "attention in both directions": (
        {"model_type": "gemma3_text", "use_bidirectional_attention": True},
        "use_bidirectional_attention = True",
    ),
    "quantized weights": ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
    "another head on top": (
        {"architectures": ["LlamaForSequenceClassification"]},
        "'LlamaForSequenceClassification' is not supported; wanted LlamaForCausalLM or MistralForCausalLM",
    ),
    "no family": ({"model_type": None}, "unsupported model family None"),
    "yarn": (
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        "'yarn' is not supported; supported: default, lin",
    ),
    "dynamic": ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "'dynamic' is not supported"),
    "part of a head rotated": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    "another activation": ({"hidden_act": "relu2"}, "activation 'relu2' is not supported; supported: silu"),
    "another kind of layer": (
        {"model_type": "qwen3", "use_sliding_window": True, "layer_types": ["chunked_attention"] * 8},
        "layer type 'chunked_attention'",
    ),
    "too few kinds of layer": (
        {"model_type": "qwen3", "use_sliding_window": True, "layer_types": ["full_attention"] * 3},
        "layer_types has 3 entries for 8 layers",
    ),
    "no layers": ({"num_hidden_layers": 0}, "num_hidden_layers must be a positive integer, got 0"),
    "too many layers": ({"num_hidden_layers": 100_000}, "num_hidden_layers = 100000 is beyond"),
    "absurd vocabulary": ({"vocab_size": 2**40}, "vocab_size must be a positive integer, got 1099511627776"),
    "negative width": ({"hidden_size": -64}, "hidden_size must be a positive integer, got -64"),
    "fractional width": ({"intermediate_size": 96.5}, r"intermediate_size must be a positive integer, got 96\.5"),
    "width as text": ({"hidden_size": "64"}, "hidden_size must be a positive integer, got '64'"),
    "missing width": ({"hidden_size": None}, "hidden_size must be a positive integer, got None"),
    "truth as a number": ({"num_hidden_layers": True}, "num_hidden_layers must be a positive integer, got True"),
    "negative head": ({"head_dim": -8}, "head_dim must be a positive integer, got -8"),
    "heads that do not divide": ({"num_key_value_heads": 3}, "4 attention heads do not divide into 3 key-value"),
    "negative window": ({"model_type": "mistral", "sliding_window": -1}, "sliding_window must be a positive integer"),
    "negative attention scale": (
        {"model_type": "gemma3_text", "query_pre_attn_scalar": -4},
        "query_pre_attn_scalar must be a positive number, got -4",
    ),
    "zero epsilon": ({"rms_norm_eps": 0}, "rms_norm_eps must be a positive number, got 0"),
    "negative base": ({"rope_theta": -1.0}, r"rope_theta must be a positive number, got -1\.0"),
    "infinite base": ({"rope_parameters": {"rope_theta": math.inf}}, "rope_theta must be a positive number, got inf"),
    "factor missing": ({"rope_scaling": {"rope_type": "linear"}}, "factor must be a positive number, got None"),
    "factor as text": ({"rope_scaling": {"rope_type": "linear", "factor": "8"}}, "factor must be a positive number"),
    "frequencies the wrong way round": (
        {"rope_scaling": {"rope_type": "llama3"} | _LLAMA3 | {"low_freq_factor": 4.0}},
        "low_freq_factor 4 must be below high_freq_factor 4",
    ),
    "original context missing": (
        {"rope_scaling": {"rope_type": "llama3"} | _LLAMA3 | {"original_max_position_embeddings": None}},
        "original_max_position_embeddings must be a positive integer, got None",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_implemented_or_absurd_is_refused_by_name(name: str) -> None:
    options, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as raised:
        model_spec(_SIZES | {"model_type": "llama"} | options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "harmless",
    [
        {"num_local_experts": 1},
        {"final_logit_softcapping": None},
        {"attention_dropout": 0.1, "pretraining_tp": 1, "use_cache": False},
        {"architectures": ["MistralForCausalLM"]},
        {"hidden_act": "swish"},
    ],
)
def test_options_that_change_nothing_are_accepted(harmless: Config) -> None:
    plain = _SIZES | {"model_type": "llama"}
    assert model_spec(plain | harmless) == model_spec(plain)

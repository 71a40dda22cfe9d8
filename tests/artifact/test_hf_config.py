"""``config.json`` in the style of transformers 4 and 5 gives one spec, the one that transformers itself makes of it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from edgepress.artifact.hf_config import find_family, model_spec
from edgepress.artifact.spec import LayerSpec, ModelSpec, RopeSpec
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
_LOCAL = ["sliding_attention"]
_FULL = ["full_attention"]

# Family or variant → the options as transformers 4 wrote them, and as transformers 5 does.
STYLES: dict[str, tuple[Config, Config]] = {
    "llama": (
        {"model_type": "llama", "rope_theta": 1e5, "rope_scaling": None, "tie_word_embeddings": True},
        {"model_type": "llama", "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}
        | {"tie_word_embeddings": True},
    ),
    "llama, scaled": (
        {"model_type": "llama", "rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3"} | _LLAMA3},
        {"model_type": "llama", "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5} | _LLAMA3},
    ),
    "llama, linear": (
        {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 4.0}},
        {"model_type": "llama", "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
    ),
    "mistral": (
        {"model_type": "mistral", "rope_theta": 1e6, "head_dim": 32, "sliding_window": None},
        {"model_type": "mistral", "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
        | {"head_dim": 32, "sliding_window": None},
    ),
    "mistral, sliding": (
        {"model_type": "mistral", "sliding_window": 512},
        {"model_type": "mistral", "sliding_window": 512, "layer_types": _LOCAL * 8}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    ),
    "qwen2": (
        {"model_type": "qwen2", "rope_theta": 1e6, "sliding_window": 1024, "use_sliding_window": False}
        | {"max_window_layers": 4},
        {"model_type": "qwen2", "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
        | {"sliding_window": None, "use_sliding_window": False, "layer_types": _FULL * 8},
    ),
    "qwen2, sliding": (
        {"model_type": "qwen2", "sliding_window": 1024, "use_sliding_window": True, "max_window_layers": 5},
        {"model_type": "qwen2", "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
        | {"sliding_window": 1024, "use_sliding_window": True, "layer_types": _FULL * 5 + _LOCAL * 3},
    ),
    "qwen3": (
        {"model_type": "qwen3", "rope_theta": 1e6, "head_dim": 32, "tie_word_embeddings": True},
        {"model_type": "qwen3", "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
        | {"head_dim": 32, "tie_word_embeddings": True, "layer_types": _FULL * 8},
    ),
    "gemma3": (
        {"model_type": "gemma3_text", "rope_theta": 1e6, "rope_local_base_freq": 2e4, "head_dim": 32}
        | {"sliding_window": 512, "sliding_window_pattern": 4, "query_pre_attn_scalar": 24},
        {"model_type": "gemma3_text", "head_dim": 32, "sliding_window": 512, "query_pre_attn_scalar": 24}
        | {"layer_types": (_LOCAL * 3 + _FULL) * 2}
        | {
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
            }
        },
    ),
    "gemma3, scaled": (
        {"model_type": "gemma3_text", "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "head_dim": 32},
        {"model_type": "gemma3_text", "head_dim": 32}
        | {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            }
        },
    ),
}

# Options left out, so that the family's defaults count.
SPARSE: dict[str, Config] = {
    "llama": {"model_type": "llama", "num_key_value_heads": None},
    "mistral": {"model_type": "mistral", "num_attention_heads": 16, "max_position_embeddings": 8192},
    "qwen2": {"model_type": "qwen2", "num_attention_heads": 32},
    "qwen2 with a window": {"model_type": "qwen2", "num_hidden_layers": 30, "use_sliding_window": True}
    | {"max_position_embeddings": 9000, "num_key_value_heads": 2},
    "qwen3": {"model_type": "qwen3", "num_key_value_heads": 2},
    "gemma3": {"model_type": "gemma3_text", "max_position_embeddings": 8192},
    "gemma3 shorter than its window": {"model_type": "gemma3_text", "max_position_embeddings": 256},
}


def _sparse(options: Config) -> Config:
    left_out = {"num_key_value_heads", "rms_norm_eps"} - options.keys()
    return {key: value for key, value in _SIZES.items() if key not in left_out} | options


def _transformers_spec(config: Config) -> ModelSpec:
    """What transformers' configuration class and its model's code make of a configuration."""
    from transformers import AutoConfig

    read = AutoConfig.for_model(**config)
    gemma, mistral = (config["model_type"] == name for name in ("gemma3_text", "mistral"))
    head_dim = getattr(read, "head_dim", None) or read.hidden_size // read.num_attention_heads
    ropes = read.rope_parameters
    window = getattr(read, "sliding_window", None)
    kinds = None if mistral else getattr(read, "layer_types", None)
    sliding = [kind == "sliding_attention" for kind in kinds or ["sliding_attention"] * read.num_hidden_layers]
    return ModelSpec(
        family=find_family(config).name,
        vocab=read.vocab_size,
        hidden=read.hidden_size,
        head_dim=head_dim,
        context=read.max_position_embeddings,
        layers=tuple(
            LayerSpec(
                heads=read.num_attention_heads,
                kv_heads=read.num_key_value_heads,
                ffn=read.intermediate_size,
                window=window if slides else None,
                local_rope=gemma and slides,
            )
            for slides in sliding
        ),
        norm_eps=read.rms_norm_eps,
        activation="gelu_tanh" if gemma else "silu",
        tied=read.tie_word_embeddings,
        attention_scale=(read.query_pre_attn_scalar if gemma else head_dim) ** -0.5,
        embedding_scale=math.sqrt(read.hidden_size) if gemma else 1.0,
        rope=_rope(ropes["full_attention"] if gemma else ropes),
        rope_local=_rope(ropes["sliding_attention"]) if gemma else None,
    )


def _rope(fields: Config) -> RopeSpec:
    kind = fields["rope_type"]
    if kind == "default":
        return RopeSpec(theta=fields["rope_theta"])
    if kind == "linear":
        return RopeSpec(theta=fields["rope_theta"], scaling="linear", factor=fields["factor"])
    return RopeSpec(
        theta=fields["rope_theta"],
        scaling="llama3",
        factor=fields["factor"],
        low_freq_factor=fields["low_freq_factor"],
        high_freq_factor=fields["high_freq_factor"],
        original_context=fields["original_max_position_embeddings"],
    )


@pytest.mark.parametrize("name", STYLES)
def test_both_styles_give_the_spec_that_transformers_makes(name: str) -> None:
    older, newer = (_SIZES | style for style in STYLES[name])
    assert model_spec(older) == model_spec(newer)
    assert model_spec(newer) == _transformers_spec(newer)


@pytest.mark.parametrize("name", SPARSE)
def test_options_that_are_left_out_are_those_of_transformers(name: str) -> None:
    config = _sparse(SPARSE[name])
    assert model_spec(config) == _transformers_spec(config)


def test_the_sliding_layers_of_a_short_gemma_keep_their_own_rotation() -> None:
    spec = model_spec(_SIZES | STYLES["gemma3"][1] | {"max_position_embeddings": 128})
    assert [layer.local_rope for layer in spec.layers] == [True, True, True, False] * 2


def test_a_window_as_long_as_the_context_is_none() -> None:
    spec = model_spec(_SIZES | {"model_type": "mistral", "sliding_window": 4096})
    assert {layer.window for layer in spec.layers} == {None}


def test_a_head_in_the_file_overrides_what_the_configuration_says() -> None:
    config = _SIZES | {"model_type": "llama", "tie_word_embeddings": True}
    assert model_spec(config).tied
    assert not model_spec(config, tied=False).tied


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
        {"model_type": "qwen3", "use_sliding_window": True, "layer_types": _FULL * 3},
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

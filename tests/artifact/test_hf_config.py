"""``config.json`` in the style of transformers 4 and 5 gives one spec, the one that transformers itself makes of it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from edgepress.artifact.hf_config import find_family, model_spec
from edgepress.artifact.spec import LayerSpec, ModelSpec, RopeSpec

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

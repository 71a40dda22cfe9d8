"""GGUF metadata → Hugging Face ``config.json``, the inverse of llama.cpp's converter.

An option that changes the function and has no counterpart in the configuration is refused by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.families import FAMILIES, Family
from edgepress.artifact.spec import RopeSpec
from edgepress.compress.student.gguf_metadata import GgufMetadata
from edgepress.compress.student.gguf_rope import recover_llama3
from edgepress.errors import InputError

_MOST_LAYERS = 4096

# Options that change the function, with the values under which they do nothing.
_REFUSED: dict[str, tuple[Any, ...]] = {
    ".expert_count": (0,),
    ".attention.causal": (True,),
    ".attn_logit_softcapping": (0.0,),
    ".final_logit_softcapping": (0.0,),
    ".attention.clamp_kqv": (0.0,),
    ".attention.scale": (0.0,),
    ".attention.max_alibi_bias": (0.0,),
    ".rope.scaling.attn_factor": (0.0, 1.0),
    ".logit_scale": (0.0, 1.0),
    ".residual_scale": (0.0, 1.0),
    ".embedding_scale": (0.0, 1.0),
}

# llama.cpp scales the queries of the 27B Gemma 3, known by its depth, by hidden / heads instead of the head dimension.
_GEMMA3_27B_LAYERS = 62


def family_of(metadata: GgufMetadata) -> Family:
    """The table row for a file's architecture.

    Raises:
        InputError: a split file, or an architecture that is not supported; names it and those that are.
    """
    parts = metadata.raw("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise InputError(
            f"{metadata.path}: one part of a GGUF file split into {parts}; merge them first (llama-gguf-split --merge)"
        )
    for family in FAMILIES.values():
        if family.gguf == metadata.architecture:
            return family
    known = ", ".join(family.gguf for family in FAMILIES.values())
    raise InputError(
        f"{metadata.path}: GGUF architecture {metadata.architecture[:40]!r} is not supported; supported: {known}"
    )


def depth_of(metadata: GgufMetadata) -> int:
    """Number of layers.

    Raises:
        InputError: missing or absurd.
    """
    return metadata.count(".block_count", most=_MOST_LAYERS)


def hf_config(
    metadata: GgufMetadata,
    family: Family,
    *,
    vocab: int,
    tied: bool,
    biases: set[str],
    rope_divisors: NDArray[np.float32] | None,
) -> dict[str, Any]:
    """The configuration that transformers would need to run the same model.

    Args:
        metadata: of the file.
        family: its row of the table.
        vocab: rows of the embedding.
        tied: whether the embedding serves as head.
        biases: options (``attention_bias``, ``mlp_bias``) that the tensors present turn on.
        rope_divisors: the tensor ``rope_freqs.weight``, (head_dim / 2,), where there is one.

    Raises:
        InputError: missing, absurd or unsupported metadata.
    """
    _refuse_unsupported(metadata)
    sizes = _sizes(metadata)
    config: dict[str, Any] = {
        "architectures": [family.architectures[0]],
        "model_type": family.model_types[0],
        "vocab_size": vocab,
        **sizes,
        "rms_norm_eps": metadata.number(".attention.layer_norm_rms_epsilon", 1e-6),
        "tie_word_embeddings": tied,
        "rope_parameters": _rope(metadata, sizes["head_dim"], rope_divisors),
        "dtype": "float32",
    }
    config |= {option: option in biases for option in dict.fromkeys(family.biases.values()) if option}
    config |= _windowed(metadata, family, config) if family.window_pattern else {"hidden_act": "silu"}
    return config | _special_ids(metadata, vocab)


def _sizes(metadata: GgufMetadata) -> dict[str, int]:
    heads = metadata.count(".attention.head_count")
    hidden = metadata.count(".embedding_length")
    return {
        "hidden_size": hidden,
        "intermediate_size": metadata.count(".feed_forward_length"),
        "num_hidden_layers": depth_of(metadata),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.count(".attention.head_count_kv", heads),
        "head_dim": _head_dim(metadata, hidden // heads),
        "max_position_embeddings": metadata.count(".context_length"),
    }


def _refuse_unsupported(metadata: GgufMetadata) -> None:
    for key, harmless in _REFUSED.items():
        value = metadata.raw(key)
        if value is not None and (isinstance(value, np.ndarray | list) or value not in harmless):
            raise metadata.fail(key, f"= {repr(value)[:40]} is not supported")


def _head_dim(metadata: GgufMetadata, default: int) -> int:
    head_dim = metadata.count(".attention.key_length", default)
    for key in (".attention.value_length", ".rope.dimension_count"):
        other = metadata.count(key, head_dim)
        if other != head_dim:
            raise metadata.fail(key, f"= {other} is not supported where the head dimension is {head_dim}")
    return head_dim


def _rope(metadata: GgufMetadata, head_dim: int, rope_divisors: NDArray[np.float32] | None) -> dict[str, Any]:
    theta = metadata.number(".rope.freq_base", 10000.0)
    kind = metadata.text(".rope.scaling.type", "linear")
    if kind not in ("none", "linear"):
        raise metadata.fail(".rope.scaling.type", f"= {kind[:40]!r} is not supported; supported: none, linear, llama3")
    factor = metadata.number(".rope.scaling.factor", metadata.number(".rope.scale_linear", 0.0))
    scaled = kind == "linear" and factor not in (0.0, 1.0)
    if rope_divisors is None:
        return _parameters(RopeSpec(theta=theta, scaling="linear", factor=factor) if scaled else RopeSpec(theta=theta))
    if rope_divisors.size != head_dim // 2 or scaled or theta <= 1:
        raise InputError(
            f"{metadata.path}: rope_freqs.weight has {rope_divisors.size} values for a head dimension of {head_dim}, "
            f"rope base {theta:g} and scaling factor {factor:g}: not supported"
        )
    recovered = recover_llama3(rope_divisors, theta)
    if recovered is None:
        raise InputError(
            f"{metadata.path}: the rope scaling in rope_freqs.weight is none that edgepress knows (llama3, linear); "
            "start from the Hugging Face model instead"
        )
    return _parameters(recovered)


def _parameters(rope: RopeSpec) -> dict[str, Any]:
    if rope.scaling == "none":
        return {"rope_type": "default", "rope_theta": rope.theta}
    fields: dict[str, Any] = {"rope_type": rope.scaling, "rope_theta": rope.theta, "factor": rope.factor}
    if rope.scaling == "llama3":
        fields["low_freq_factor"] = rope.low_freq_factor
        fields["high_freq_factor"] = rope.high_freq_factor
        fields["original_max_position_embeddings"] = rope.original_context
    return fields


def _windowed(metadata: GgufMetadata, family: Family, config: dict[str, Any]) -> dict[str, Any]:
    """Fields of families with sliding windows: Gemma 3."""
    depth, heads = config["num_hidden_layers"], config["num_attention_heads"]
    slides = _sliding_layers(metadata, depth, family.window_pattern or 1)
    local = metadata.number(".rope.freq_base_swa", 10000.0)
    fields: dict[str, Any] = {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": config["hidden_size"] // heads if depth == _GEMMA3_27B_LAYERS else config["head_dim"],
        "layer_types": ["sliding_attention" if slide else "full_attention" for slide in slides],
        "rope_parameters": {
            "full_attention": config["rope_parameters"],
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        },
    }
    if any(slides):
        fields["sliding_window"] = metadata.count(".attention.sliding_window")
    return fields


def _sliding_layers(metadata: GgufMetadata, depth: int, default: int) -> list[bool]:
    key = ".attention.sliding_window_pattern"
    if not metadata.raw(".attention.sliding_window", 0):
        return [False] * depth
    pattern = metadata.raw(key, default)
    if isinstance(pattern, np.ndarray):
        if pattern.size != depth:
            raise metadata.fail(key, f"has {pattern.size} entries for {depth} layers")
        return [bool(slide) for slide in pattern]
    period = metadata.count(key, default)
    return [layer % period < period - 1 for layer in range(depth)]


def _special_ids(metadata: GgufMetadata, vocab: int) -> dict[str, int]:
    found = {
        "bos_token_id": metadata.token_id("tokenizer.ggml.bos_token_id", vocab),
        "eos_token_id": metadata.token_id("tokenizer.ggml.eos_token_id", vocab),
        "pad_token_id": metadata.token_id("tokenizer.ggml.padding_token_id", vocab),
    }
    return {key: value for key, value in found.items() if value is not None}

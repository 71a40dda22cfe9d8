"""Hugging Face ``config.json`` → :class:`ModelSpec`, refusing by name whatever edgepress does not implement.

Reads the fields of transformers 4 (``rope_theta``, ``rope_scaling``, ``sliding_window_pattern``) and of transformers 5
(``rope_parameters``, ``layer_types``). An option that would change the function and is not handled is an error, before
any work: a model that loads and answers wrongly is worse than one that is refused.
"""

from __future__ import annotations

import math
from typing import Any

from edgepress.artifact.families import FAMILIES, Family
from edgepress.artifact.spec import LayerSpec, ModelSpec, RopeSpec
from edgepress.errors import InputError

Config = dict[str, Any]
LAYER_SHAPES = "layer_shapes"  # what only edgepress reads: heads, kv_heads and ffn by layer; 0 heads: no attention
NO_ATTENTION = "no_attention"  # among layer_types; transformers knows no such type, and so does not guess the weights

# Options that change the function, with the values under which they do nothing.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "num_local_experts": (None, 0, 1),
    "num_experts": (None, 0, 1),
    "n_routed_experts": (None, 0),
    "attn_logit_softcapping": (None, 0, 0.0),
    "final_logit_softcapping": (None, 0, 0.0),
    "use_bidirectional_attention": (None, False),
    "quantization_config": (None, {}),
}

# What transformers takes for an option that ``config.json`` leaves out, where that is not what the name suggests.
_SLIDING = {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}
_DEFAULTS: dict[str, Config] = {
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": {"num_key_value_heads": 32} | _SLIDING,
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128} | _SLIDING,
    "gemma3_text": {
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
    },
}

_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


def model_spec(config: Config, *, tied: bool | None = None) -> ModelSpec:
    """Translate a Hugging Face configuration.

    Args:
        config: the parsed ``config.json``.
        tied: overrides ``tie_word_embeddings`` (a checkpoint without a head tensor is tied whatever it says).

    Raises:
        InputError: an unsupported family or option, named, or a field that is missing or absurd.
    """
    family = find_family(config)
    _refuse_unsupported(config, family)
    config = _DEFAULTS.get(config["model_type"], {}) | config
    hidden = _positive(config, "hidden_size")
    heads = _positive(config, "num_attention_heads")
    head_dim = _positive(config, "head_dim") if config.get("head_dim") else hidden // heads
    rope, rope_local = _ropes(config)
    scale_base = _number(config, "query_pre_attn_scalar") if family.scaled_embedding else float(head_dim)
    return ModelSpec(
        family=family.name,
        vocab=_positive(config, "vocab_size"),
        hidden=hidden,
        head_dim=head_dim,
        context=_positive(config, "max_position_embeddings"),
        layers=_layers(config, heads, rope_local is not None),
        norm_eps=_number(config, "rms_norm_eps", 1e-6),
        activation=_activation(config),  # type: ignore[arg-type]
        tied=_tied_default(config, family) if tied is None else tied,
        attention_scale=scale_base**-0.5,
        embedding_scale=math.sqrt(hidden) if family.scaled_embedding else 1.0,
        rope=rope,
        rope_local=rope_local,
    )


def find_family(config: Config) -> Family:
    """The table row for a configuration's ``model_type``.

    Raises:
        InputError: the family is not supported; names it and those that are.
    """
    model_type = config.get("model_type")
    for family in FAMILIES.values():
        if model_type in family.model_types:
            return family
    known = ", ".join(name for family in FAMILIES.values() for name in family.model_types)
    what = (config.get("architectures") or [model_type])[0]
    raise InputError(f"unsupported model family {what!r} (model_type {model_type!r}); supported: {known}")


def _refuse_unsupported(config: Config, family: Family) -> None:
    for field, harmless in _REFUSED.items():
        if config.get(field) not in harmless:
            raise InputError(f"config.json: {field} = {config[field]!r} is not supported for {family.name} models")
    architectures = config.get("architectures") or []
    for architecture in architectures:
        if architecture not in family.architectures:
            wanted = " or ".join(family.architectures)
            raise InputError(f"config.json: architecture {architecture!r} is not supported; wanted {wanted}")


def _positive(config: Config, field: str, default: int | None = None) -> int:
    value = config.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise InputError(f"config.json: {field} must be a positive integer, got {value!r}")
    return value


def _number(fields: Config, field: str, default: float | None = None) -> float:
    value = fields.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"config.json: {field} must be a positive number, got {value!r}")
    return float(value)


def _activation(config: Config) -> str:
    name = config.get("hidden_activation") or config.get("hidden_act") or "silu"
    if name not in _ACTIVATIONS:
        raise InputError(f"config.json: activation {name!r} is not supported; supported: {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _tied_default(config: Config, family: Family) -> bool:
    # Hugging Face leaves the field out when it has the class's default, which is True for Gemma only.
    return bool(config.get("tie_word_embeddings", family.scaled_embedding))


def _layers(config: Config, heads: int, has_local_rope: bool) -> tuple[LayerSpec, ...]:
    depth = _positive(config, "num_hidden_layers")
    kv_heads = _positive(config, "num_key_value_heads") if config.get("num_key_value_heads") is not None else heads
    ffn = _positive(config, "intermediate_size")
    if depth > 4096:
        raise InputError(f"config.json: num_hidden_layers = {depth} is beyond anything sensible (4096)")
    if heads % kv_heads:
        raise InputError(f"config.json: {heads} attention heads do not divide into {kv_heads} key-value heads")
    shapes = _shapes(config, depth) or [{"heads": heads, "kv_heads": kv_heads, "ffn": ffn}] * depth
    layers = []
    for shape, window in zip(shapes, _windows(config, depth, always=has_local_rope), strict=True):
        local = has_local_rope and window is not None
        layers.append(LayerSpec(**shape, window=window, local_rope=local))
    missing = [layer.heads == 0 for layer in layers]
    named = [kind == NO_ATTENTION for kind in config.get("layer_types") or ()]
    if any(named) and named != missing:
        raise InputError(f"config.json: layer_types and {LAYER_SHAPES} name other layers without attention")
    return tuple(layers)


def _shapes(config: Config, depth: int) -> list[dict[str, int]] | None:
    """The layers' own shapes, where the configuration has them."""
    shapes = config.get(LAYER_SHAPES)
    if shapes is None:
        return None
    if not isinstance(shapes, list) or len(shapes) != depth or not all(isinstance(shape, dict) for shape in shapes):
        raise InputError(f"config.json: {LAYER_SHAPES} must be a list of {depth} objects, one per layer")
    found = [_shape(shape, first=index == 0) for index, shape in enumerate(shapes)]
    for index, shape in enumerate(found):
        if shape["heads"] and shape["heads"] % shape["kv_heads"]:
            raise InputError(f"config.json: {LAYER_SHAPES}[{index}]: {shape['heads']} heads do not divide into groups")
    return found


def _shape(shape: Config, *, first: bool) -> dict[str, int]:
    """One layer's; both kinds of heads are 0 where it has no attention, which the first layer needs."""
    if not first and shape.get("heads") == 0 and shape.get("kv_heads") == 0:
        return {"heads": 0, "kv_heads": 0, "ffn": _positive(shape, "ffn")}
    return {field: _positive(shape, field) for field in ("heads", "kv_heads", "ffn")}


def _windows(config: Config, depth: int, *, always: bool) -> list[int | None]:
    """The window of each layer. One as long as the context has no effect and is left out, unless it is kept
    ``always``: where the sliding layers have a rotation of their own.
    """
    if config.get("sliding_window") is None or config.get("use_sliding_window") is False:
        return [None] * depth
    window = _positive(config, "sliding_window")
    types = _layer_types(config, depth)
    if len(types) != depth:
        raise InputError(f"config.json: layer_types has {len(types)} entries for {depth} layers")
    unknown = set(types) - {"full_attention", "sliding_attention", NO_ATTENTION}
    if unknown:
        raise InputError(f"config.json: layer type {sorted(unknown)[0]!r} is not supported")
    slides = always or window < _positive(config, "max_position_embeddings")
    return [window if kind == "sliding_attention" and slides else None for kind in types]


def _layer_types(config: Config, depth: int) -> list[str]:
    """What transformers reads, or derives where ``layer_types`` is absent."""
    if config["model_type"] == "mistral":  # does not read layer_types
        return ["sliding_attention"] * depth
    if config.get("layer_types"):
        return list(config["layer_types"])
    if config["model_type"] == "gemma3_text":
        pattern = int(config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6)
        return ["full_attention" if (i + 1) % pattern == 0 else "sliding_attention" for i in range(depth)]
    if not config.get("use_sliding_window"):
        return ["full_attention"] * depth
    first = int(config.get("max_window_layers", depth))
    return ["sliding_attention" if i >= first else "full_attention" for i in range(depth)]


def _ropes(config: Config) -> tuple[RopeSpec, RopeSpec | None]:
    parameters = config.get("rope_parameters") or {}
    if "full_attention" in parameters:
        local = parameters.get("sliding_attention")
        return _rope(config, parameters["full_attention"]), _rope(config, local) if local else None
    if config.get("rope_local_base_freq") or config["model_type"] == "gemma3_text":
        theta_local = _number(config, "rope_local_base_freq", 10000.0)
        legacy = {"rope_theta": config.get("rope_theta", 1e6)} | (config.get("rope_scaling") or {})
        return _rope(config, legacy), RopeSpec(theta=theta_local)
    legacy = {"rope_theta": config.get("rope_theta", 10000.0)} | (config.get("rope_scaling") or {})
    return _rope(config, parameters or legacy), None


def _rope(config: Config, fields: Config) -> RopeSpec:
    kind = fields.get("rope_type") or fields.get("type") or "default"
    theta = _number(fields if fields.get("rope_theta") is not None else config, "rope_theta", 10000.0)
    if float(fields.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0) != 1.0:
        raise InputError("config.json: partial_rotary_factor other than 1 is not supported")
    if kind == "default":
        return RopeSpec(theta=theta)
    if kind == "linear":
        return RopeSpec(theta=theta, scaling="linear", factor=_number(fields, "factor"))
    if kind != "llama3":
        raise InputError(f"config.json: rope scaling {kind!r} is not supported; supported: default, linear, llama3")
    low, high = _number(fields, "low_freq_factor"), _number(fields, "high_freq_factor")
    if low >= high:
        raise InputError(f"config.json: low_freq_factor {low:g} must be below high_freq_factor {high:g}")
    return RopeSpec(
        theta=theta,
        scaling="llama3",
        factor=_number(fields, "factor"),
        low_freq_factor=low,
        high_freq_factor=high,
        original_context=_positive(fields, "original_max_position_embeddings"),
    )

"""A smaller configuration of the same family, and whether it is contained in the larger one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np

from edgepress.artifact.spec import ModelSpec
from edgepress.artifact.weights import WeightSource
from edgepress.compress.student.expected import read_spec
from edgepress.errors import InputError

Layers = Literal["uniform", "first"]
_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)


@dataclass(frozen=True)
class Size:
    """A student's configuration, its shape, and the layers of the larger model that its layers start from."""

    config: dict[str, Any]
    spec: ModelSpec
    layers: tuple[int, ...]


def smaller_size(source: WeightSource, sizes: dict[str, Any], layers: Layers = "uniform") -> Size:
    """The source's configuration with some sizes changed.

    Args:
        source: the larger model.
        sizes: fields of ``config.json``: hidden_size, num_hidden_layers, intermediate_size, num_attention_heads,
            num_key_value_heads, head_dim. What is not given stays.
        layers: which of the source's layers: evenly spaced from first to last, or the first ones.

    Raises:
        InputError: another field, or a size that is none.
    """
    for field, value in sizes.items():
        if field not in _SIZES:
            raise InputError(
                f"start: {field!r} is not a size ({value!r:.40} here, {source.config.get(field)!r:.40} in the larger "
                f"model, and stays); sizes: {', '.join(_SIZES)}"
            )
    spec = source.spec
    # Left out, it would follow from the new width.
    config = source.config | {"head_dim": spec.head_dim} | sizes | {"tie_word_embeddings": spec.tied}
    depth = config.get("num_hidden_layers")
    if not isinstance(depth, int) or not 0 < depth <= spec.depth:
        raise InputError(f"start: num_hidden_layers is {depth!r}; the larger model has {spec.depth}, take 1 to that")
    chosen = chosen_layers(depth, spec.depth, layers)
    if config.get("layer_types"):
        config["layer_types"] = [source.config["layer_types"][index] for index in chosen]
    size = Size(config, read_spec(config, tied=spec.tied, where="start"), chosen)
    _check_accepted(config)
    return size


def chosen_layers(depth: int, of: int, layers: Layers) -> tuple[int, ...]:
    """``depth`` of a larger model's layers: evenly spaced from the first to the last, or the first ones."""
    chosen = np.linspace(0, of - 1, depth).round().astype(int) if layers == "uniform" else np.arange(depth)
    return tuple(chosen.tolist())


def _check_accepted(config: dict[str, Any]) -> None:
    """Refuse what transformers would, which asks for more than weight selection does."""
    import transformers  # a third of a second and some megabytes, which only a start from a teacher needs

    try:
        transformers.AutoConfig.for_model(**config)
    except Exception as error:  # its validation raises errors of several libraries
        reason = " ".join(str(error.__cause__ or error).split())
        raise InputError(f"start: transformers does not take these sizes: {reason}") from error


def check_smaller(source: WeightSource, size: Size) -> None:
    """Refuse a configuration that slices of the source cannot make.

    Raises:
        InputError: names the number that is in the way.
    """
    large, small = source.spec, size.spec
    fixed = ("family", "vocab", "tied", "rope", "rope_local", "activation")
    for field in fixed:
        if getattr(large, field) != getattr(small, field):
            raise InputError(
                f"start: {field} is {getattr(small, field)!r}, the larger model has {getattr(large, field)!r}; "
                "weight selection needs them equal"
            )
    _within("hidden_size", small.hidden, large.hidden)
    if large.head_dim % small.head_dim:
        raise InputError(
            f"start: head_dim {small.head_dim} does not divide {large.head_dim}, so that no rotation pairs keep their "
            f"frequencies; take {large.head_dim} or a divisor of it"
        )
    for index, layer in zip(size.layers, small.layers, strict=True):
        whole = large.layers[index]
        if not (whole.heads and layer.heads):
            raise InputError(f"start: layer {index} of the larger model has no attention; weight selection needs some")
        _within("intermediate_size", layer.ffn, whole.ffn)
        _within("num_key_value_heads", layer.kv_heads, whole.kv_heads)
        _within("query heads per key-value head", layer.heads // layer.kv_heads, whole.heads // whole.kv_heads)
        if (whole.window, whole.local_rope) != (layer.window, layer.local_rope):
            raise InputError(
                f"start: a layer attends to {_span(layer.window)}, layer {index} of the larger model to "
                f"{_span(whole.window)}; give layer_types of the layers {list(size.layers)}"
            )


def _within(what: str, wanted: int, there: int) -> None:
    if wanted > there:
        raise InputError(f"start: {what} {wanted} is more than the larger model's {there}; take {there} or less")


def _span(window: int | None) -> str:
    return "all tokens" if window is None else f"{window} tokens"


def read_sizes(text: str, where: str) -> dict[str, Any]:
    """Sizes from a JSON object.

    Raises:
        InputError: it is not one.
    """
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InputError(f"{where}: wanted a JSON object of sizes ({error})") from error

"""A configuration for other shapes: what a model's ``config.json`` says once something of it is gone."""

from __future__ import annotations

from collections.abc import Sequence

from edgepress.artifact.hf_config import LAYER_SHAPES, NO_ATTENTION, Config, find_family
from edgepress.artifact.spec import LayerSpec


def with_shapes(config: Config, layers: Sequence[LayerSpec], head_dim: int, hidden: int | None = None) -> Config:
    """A configuration for layers of these shapes: the usual fields, and ``layer_shapes`` where they differ.

    transformers does not read ``layer_shapes``: it loads a model whose layers are all alike and refuses another, by
    the shapes of its tensors or, where one has no attention, by its ``layer_types``: it would fill tensors that are not
    there at random. ``runtime.torch_reference.load_model`` builds either.

    Args:
        config: of the model as it was.
        layers: its layers.
        head_dim: of every head.
        hidden: width of the residual stream; as it was unless given.
    """
    first = layers[0]  # has attention where any has
    fields: Config = {
        "hidden_size": config["hidden_size"] if hidden is None else hidden,
        "num_hidden_layers": len(layers),
        "num_attention_heads": first.heads,
        "num_key_value_heads": first.kv_heads,
        "head_dim": head_dim,
        "intermediate_size": first.ffn,
    }
    shapes = [{"heads": layer.heads, "kv_heads": layer.kv_heads, "ffn": layer.ffn} for layer in layers]
    own = {LAYER_SHAPES: shapes} if any(shape != shapes[0] for shape in shapes) else {}
    whole = {key: config[key] for key in config if key != LAYER_SHAPES} | fields | own | _layer_types(config, layers)
    return _as_transformers_takes_it(whole)


def _layer_types(config: Config, layers: Sequence[LayerSpec]) -> Config:
    """Stated where there is a window, since a rule by a layer's place would say otherwise once some are gone."""
    kinds = [
        NO_ATTENTION if not layer.heads else "sliding_attention" if layer.window else "full_attention"
        for layer in layers
    ]
    stated = config.get("layer_types") or config.get("sliding_window") or NO_ATTENTION in kinds
    return {"layer_types": kinds} if stated else {}


def loads_in_transformers(config: Config) -> bool:
    """Whether its class takes the width: some want the hidden size to be a multiple of the query heads, though nothing
    in the computation does. Layers of unlike shapes are another matter.
    """
    divides = config["hidden_size"] % config["num_attention_heads"] == 0
    return divides or config["model_type"] not in find_family(config).divides_hidden


def _as_transformers_takes_it(config: Config) -> Config:
    """The same model under another type where its own does not take the width, if there is one."""
    family = find_family(config)
    biased = any(config.get(option) for option in family.biases.values() if option)
    return config if biased or loads_in_transformers(config) else config | family.divides_hidden[config["model_type"]]

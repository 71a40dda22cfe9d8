"""The tensors that a model of a family must have, from its table row, its spec and its configuration.

A file is held against this before any work: a tensor that is missing, has another shape or is not understood would
otherwise surface hours later, or not at all, as a model that answers wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgepress.artifact.families import (
    EMBEDDING,
    FAMILIES,
    FINAL_NORM,
    HEAD,
    LINEARS,
    Family,
    layer_name,
    linear_shapes,
)
from edgepress.artifact.hf_config import model_spec
from edgepress.artifact.spec import ModelSpec
from edgepress.compress.student.student import StoredTensor
from edgepress.errors import InputError

Shape = tuple[int, ...]

# Left behind by older exports: constants that follow from the configuration.
_HARMLESS = ("rotary_emb.inv_freq",)


def is_harmless(name: str) -> bool:
    """Whether a stored tensor may be ignored."""
    return name.endswith(_HARMLESS)


def read_spec(config: dict[str, Any], *, tied: bool, where: str) -> ModelSpec:
    """:func:`~edgepress.artifact.hf_config.model_spec`, with fields of a wrong type reported in one line as well.

    Raises:
        InputError: an unsupported family or option, or a field that is missing, absurd or of the wrong type.
    """
    try:
        spec = model_spec(config, tied=tied)
    except InputError as error:
        raise InputError(f"{where}: {str(error).removeprefix('config.json: ')}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"{where}: a field is missing or has the wrong type ({what})") from error
    if spec.head_dim < 2 or spec.head_dim % 2:
        raise InputError(f"{where}: head dimension {spec.head_dim}; rotary embeddings need an even one")
    for rope in (spec.rope, spec.rope_local):
        if rope is not None and not (rope.theta > 0 and rope.factor > 0):
            raise InputError(f"{where}: rope base {rope.theta:g} and factor {rope.factor:g} must be positive")
    return spec


def expected_shapes(spec: ModelSpec, config: Mapping[str, Any]) -> dict[str, Shape]:
    """Name → shape of every tensor, in file order; linears are (out features, in features)."""
    family = FAMILIES[spec.family]
    shapes: dict[str, Shape] = {EMBEDDING: (spec.vocab, spec.hidden)}
    for index, layer in enumerate(spec.layers):
        linears = {LINEARS[role]: shape for role, shape in linear_shapes(spec, layer).items()}
        for norm in family.norms_of(layer):
            shapes[layer_name(index, norm)] = (spec.head_dim if norm.startswith("self_attn.") else spec.hidden,)
        for part, shape in linears.items():
            shapes[layer_name(index, part)] = shape
        for part in biased(family, config):
            if part in linears:
                shapes[layer_name(index, part, "bias")] = linears[part][:1]
    shapes[FINAL_NORM] = (spec.hidden,)
    return shapes if spec.tied else shapes | {HEAD: (spec.vocab, spec.hidden)}


def biased(family: Family, config: Mapping[str, Any]) -> list[str]:
    """The linears that have a bias under a configuration."""
    options = family.bias_options(config["model_type"])
    return [part for part, option in options.items() if not option or config.get(option)]


def in_expected_order(
    stored: Mapping[str, StoredTensor], spec: ModelSpec, config: Mapping[str, Any], where: str
) -> dict[str, StoredTensor]:
    """The stored tensors in file order, each one checked.

    Raises:
        InputError: names the first tensor that is missing, has the wrong shape or is not expected.
    """
    shapes = expected_shapes(spec, config)
    for name, shape in shapes.items():
        if name not in stored:
            has = f"it has {len(stored)} tensors, the family needs {len(shapes)}"
            raise InputError(f"{where}: {name} {list(shape)} is missing; {has}")
        if stored[name].shape != shape:
            raise InputError(
                f"{where}: {name} has shape {list(stored[name].shape)}, the configuration asks for {list(shape)}"
            )
    for name in stored:
        if name not in shapes:
            raise InputError(
                f"{where}: unexpected tensor {name[:100]!r} {list(stored[name].shape)} for a {spec.family} model"
            )
    return {name: stored[name] for name in shapes}

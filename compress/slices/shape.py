"""The sizes of an encoder, and whether a smaller one is contained in a larger one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgepress.artifact.encoder_families import Axes, Axis, EncoderFamily
from edgepress.compress.distill.shares import Shares, rounded_share
from edgepress.compress.distill.smaller import Layers, chosen_layers
from edgepress.errors import InputError


@dataclass(frozen=True)
class EncoderShape:
    """Residual channels, layers, heads, feed-forward neurons, and outputs of the pooler."""

    hidden: int
    layers: int
    heads: int
    ffn: int
    pooled: int

    @property
    def head_dim(self) -> int:
        """Dimensions of a head; heads fill the width."""
        return self.hidden // self.heads

    def width(self, axis: Axis) -> int:
        """How long the side of a tensor is that counts ``axis``."""
        return {"hidden": self.hidden, "heads": self.hidden, "ffn": self.ffn, "pooled": self.pooled}[axis]

    def tensor(self, axes: Axes, whole: tuple[int, ...]) -> tuple[int, ...]:
        """A tensor's shape, where ``whole`` is that of the same tensor in another model of the family."""
        return tuple(there if axis is None else self.width(axis) for axis, there in zip(axes, whole, strict=True))


def read_shape(config: Mapping[str, Any], family: EncoderFamily, where: str) -> EncoderShape:
    """The sizes in a configuration.

    Raises:
        InputError: one is missing, no positive integer, or the heads do not divide the width.
    """
    names = family.sizes
    hidden, layers, heads, ffn = (_size(config, name, where) for name in size_fields(family))
    if hidden % heads:
        raise InputError(
            f"{where}: {names.heads} {heads} does not divide {names.hidden} {hidden}; heads have {hidden / heads:g} "
            "dimensions each, and need a whole number"
        )
    pooled = config.get(family.pooled) if family.pooled else None
    return EncoderShape(hidden, layers, heads, ffn, pooled if isinstance(pooled, int) and pooled > 0 else hidden)


def smaller_config(
    config: Mapping[str, Any], family: EncoderFamily, sizes: Mapping[str, Any], layers: Layers
) -> tuple[dict[str, Any], tuple[int, ...]]:
    """A configuration with some sizes changed, and the layers that the smaller model takes, one per layer of its own.

    Args:
        config: of the larger model.
        family: its family.
        sizes: fields of ``config.json``; what is not given stays.
        layers: evenly spaced from first to last, or the first ones.

    Raises:
        InputError: another field, or a size that the larger model does not contain; names the number in the way.
    """
    for field, value in sizes.items():
        if field not in size_fields(family):
            raise InputError(
                f"start: {field!r} is not a size ({value!r:.40} here, {config.get(field)!r:.40} in the larger "
                f"model, and stays); sizes: {', '.join(size_fields(family))}"
            )
    changed = dict(config) | dict(sizes)
    whole = read_shape(config, family, "config.json")
    if family.pooled and whole.pooled == whole.hidden:  # follows the width, unless it was chosen for itself
        changed[family.pooled] = changed[family.sizes.hidden]
    _check_contained(whole, read_shape(changed, family, "start"), family)
    return changed, chosen_layers(changed[family.sizes.layers], whole.layers, layers)


def encoder_sizes_from_shares(whole: EncoderShape, family: EncoderFamily, shares: Shares) -> dict[str, int]:
    """Fields of ``config.json``: whole heads as they are, neurons in multiples of 64."""
    heads = max(1, round(whole.heads * shares.width))
    sizes = (heads * whole.head_dim, max(1, round(whole.layers * shares.depth)), heads)
    return dict(zip(size_fields(family), (*sizes, rounded_share(whole.ffn, shares.width)), strict=True))


def size_fields(family: EncoderFamily) -> tuple[str, str, str, str]:
    """What ``config.json`` calls width, layers, heads and neurons."""
    names = family.sizes
    return names.hidden, names.layers, names.heads, names.ffn


def _size(config: Mapping[str, Any], field: str, where: str) -> int:
    value = config.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{where}: {field} must be a positive integer, got {value!r}")
    return value


def _check_contained(whole: EncoderShape, small: EncoderShape, family: EncoderFamily) -> None:
    wanted = (small.hidden, small.layers, small.heads, small.ffn)
    there = (whole.hidden, whole.layers, whole.heads, whole.ffn)
    for field, size, limit in zip(size_fields(family), wanted, there, strict=True):
        if size > limit:
            raise InputError(f"start: {field} {size} is more than the larger model's {limit}; take {limit} or less")
    if small.head_dim > whole.head_dim:
        least = -(-small.hidden // whole.head_dim)
        raise InputError(
            f"start: {small.heads} heads over a width of {small.hidden} have {small.head_dim} dimensions each, the "
            f"larger model's have {whole.head_dim}; set {family.sizes.heads} to {least} or more"
        )

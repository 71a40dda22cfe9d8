"""What a pruning step took away, kept beside its checkpoint: enough to undo the repair and keep the removal."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np

from edgepress.artifact.families import EMBEDDING, FAMILIES, LINEARS, layer_name
from edgepress.artifact.spec import ModelSpec
from edgepress.compress.calibrate.skeleton import Floats
from edgepress.compress.search.divergence import Change

REMOVED_FILE = "removed.json"
_ENDS = (LINEARS["attn_output"], LINEARS["ffn_down"])


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """Either ``layers``, by their place in the model before the step; or those whose ``attention`` is gone; or, for
    each layer, the ``columns`` that stay of the linear with the role ``reader``; or the ``channels`` of the residual
    stream that stay, and by a norm's name the factor by which its gains are ``rescaled`` where the others are zero.
    """

    layers: tuple[int, ...] = ()
    attention: tuple[int, ...] = ()
    reader: str = ""
    columns: tuple[tuple[int, ...], ...] = ()
    channels: tuple[int, ...] = ()
    rescaled: dict[str, float] = {}

    def kept_layers(self, depth: int) -> tuple[int, ...]:
        """Places, in the model before the step, of the layers that stay."""
        return tuple(index for index in range(depth) if index not in self.layers)

    def change(self, spec: ModelSpec) -> Change:
        """The removal alone, as a change of the tensors of the model before the step, whose shapes it keeps: what is
        gone adds nothing to the residual stream.
        """
        if self.reader:
            return self._without_columns(spec)
        if self.channels:
            return self._without_channels(spec)
        ends = _ends(self.layers) | _ends(self.attention, (LINEARS["attn_output"],))
        return lambda name, values: np.zeros_like(values) if name in ends else values

    def _without_columns(self, spec: ModelSpec) -> Change:
        stays = {
            layer_name(index, LINEARS[self.reader]): np.asarray(self.columns[index], np.intp)
            for index in range(spec.depth)
        }

        def masked(name: str, values: Floats) -> Floats:
            if name not in stays:
                return values
            left = np.zeros_like(values)
            left[:, stays[name]] = values[:, stays[name]]
            return left

        return masked

    def _without_channels(self, spec: ModelSpec) -> Change:
        gone = np.setdiff1d(np.arange(spec.hidden), self.channels)
        offset = FAMILIES[spec.family].norm_offset
        writers = _ends(range(spec.depth))

        def masked(name: str, values: Floats) -> Floats:
            if name in self.rescaled:
                scaled: Floats = (values + np.float32(offset)) * np.float32(self.rescaled[name]) - np.float32(offset)
                return scaled
            if name != EMBEDDING and name not in writers:
                return values
            left = values.copy()
            left[(slice(None), gone) if name == EMBEDDING else gone] = 0
            return left

        return masked


def _ends(layers: Iterable[int], parts: tuple[str, ...] = _ENDS) -> set[str]:
    """Names of all that writes into the residual stream in some layers."""
    return {layer_name(index, part, leaf) for index in layers for part in parts for leaf in ("weight", "bias")}


def write_removed(removed: Removed, directory: Path) -> None:
    """Write ``removed.json`` into a stage's directory."""
    (directory / REMOVED_FILE).write_bytes(msgspec.json.encode(removed))


def read_removed(directory: Path) -> Removed | None:
    """What a stage removed; None for one that does not prune."""
    path = directory / REMOVED_FILE
    return msgspec.json.decode(path.read_bytes(), type=Removed) if path.is_file() else None

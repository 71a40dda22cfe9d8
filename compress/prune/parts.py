"""The part of a layer that a step prunes, in tensors: the linear that loses columns, and the rows that make them."""

from __future__ import annotations

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.artifact.families import FAMILIES, LINEARS, layer_name
from edgepress.artifact.spec import LayerSpec, ModelSpec
from edgepress.artifact.weights import WeightSource
from edgepress.compress.prune.config import PruneFfn, PruneHeads
from edgepress.compress.prune.obs import Units

Tensors = dict[str, NDArray[np.float32]]
WidthStep = PruneFfn | PruneHeads


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What a step works on: the linear whose inputs are pruned, by role, and what makes those inputs."""

    reader: str
    makers: tuple[str, ...]


FFN = Part(reader="ffn_down", makers=("ffn_gate", "ffn_up"))
ATTENTION = Part(reader="attn_output", makers=("attn_q", "attn_k", "attn_v"))


def part_of(step: WidthStep) -> Part:
    """The part that a step prunes."""
    return FFN if isinstance(step, PruneFfn) else ATTENTION


def layer_units(step: WidthStep, spec: ModelSpec, layer: LayerSpec) -> Units:
    """How the reader's inputs fall into units."""
    if isinstance(step, PruneFfn):
        return Units(count=layer.ffn, step=step.multiple_of)
    if step.unit == "groups":
        return Units(count=layer.kv_heads, size=layer.heads // layer.kv_heads * spec.head_dim)
    return Units(count=layer.heads, size=spec.head_dim, classes=layer.kv_heads, step=layer.kv_heads)


def maker_rows(
    step: WidthStep, role: str, spec: ModelSpec, layer: LayerSpec, kept: torch.Tensor
) -> torch.Tensor | None:
    """Rows of a maker that stay with the units ``kept``; None where all do."""
    if isinstance(step, PruneFfn):
        return kept
    if role == "attn_q":
        return layer_units(step, spec, layer).columns(kept)
    if step.unit == "groups":
        return Units(count=layer.kv_heads, size=spec.head_dim).columns(kept)
    return None


def pruned_shape(step: WidthStep, layer: LayerSpec, kept: int) -> LayerSpec:
    """A layer's shape with ``kept`` units."""
    if isinstance(step, PruneFfn):
        return msgspec.structs.replace(layer, ffn=kept)
    if step.unit == "groups":
        return msgspec.structs.replace(layer, kv_heads=kept, heads=kept * (layer.heads // layer.kv_heads))
    return msgspec.structs.replace(layer, heads=kept)


def bias_option(source: WeightSource, part: Part) -> str | None:
    """The configuration's option that gives the reader a bias; None where models of its type have none to give."""
    options = FAMILIES[source.spec.family].bias_options(source.config["model_type"])
    return options.get(LINEARS[part.reader]) or None


def maker_energy(step: WidthStep, spec: ModelSpec, index: int, tensors: Tensors) -> torch.Tensor:
    """Sum of squares of the weights that make each of the reader's inputs, float64, (columns,)."""
    layer, part = spec.layers[index], part_of(step)
    total = torch.zeros(tensors[layer_name(index, LINEARS[part.reader])].shape[1], dtype=torch.float64)
    for role in part.makers:
        rows = torch.from_numpy(tensors[layer_name(index, LINEARS[role])]).double().square().sum(1)
        if len(rows) != len(total):  # keys and values, shared by the query heads of a group
            rows = rows.view(layer.kv_heads, 1, -1).expand(-1, layer.heads // layer.kv_heads, -1).flatten()
        total += rows
    return total

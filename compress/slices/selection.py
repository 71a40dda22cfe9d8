"""Weight selection for encoders: what is chosen of a larger one, and the cut.

Idea (Xu et al., "Initializing models with larger ones", arXiv 2311.18823): a subset of a trained model's weights is a
better start than random numbers, if the subset is *consistent*: one choice of channels along the whole residual stream,
so that what a layer writes is what the next one reads.

    layer l of the smaller model   layer L(l) of the source: evenly spaced, or the first
    residual channels              C: embeddings, positions, class token, patches, norms, one side of every linear
    heads                          whole ones, by layer
    head dimensions                evenly spaced, the same in every head, where they become fewer
    neurons                        F, by layer, in both linears alike
    outputs of the pooler          P; a classifier on them is cut by P, one on the states by C; every label stays

Which ones: evenly spaced, as the paper has it, or those with the largest mean absolute activation on calibration
inputs. Where we depart: scores are divided by √(head dimension), and the queries carry the change,

    q' = q √(d'/d),  so that  q'ᵀk / √d' = qᵀk / √d

and where there are calibration inputs, layer norms are fitted to their channels (``norms``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from edgepress.artifact.encoder_families import Axis, Role
from edgepress.compress.distill.weight_selection import Indices, evenly, strongest
from edgepress.compress.slices.shape import EncoderShape
from edgepress.compress.slices.statistics import EncoderStatistics, Means


@dataclass(frozen=True)
class Chosen:
    """What of a source a smaller encoder takes; ``heads`` and ``ffn`` are by layer of the smaller one."""

    layers: tuple[int, ...]
    hidden: Indices
    dims: Indices
    heads: tuple[Indices, ...]
    ffn: tuple[Indices, ...]
    pooled: Indices
    head_dim: int  # of the source

    def places(self, axis: Axis, layer: int | None) -> Indices:
        """Where on a side of the source's tensor that counts ``axis`` the chosen ones lie."""
        if axis == "hidden":
            return self.hidden
        if axis == "pooled" or layer is None:
            return self.pooled
        if axis == "ffn":
            return self.ffn[layer]
        return (self.heads[layer][:, None] * self.head_dim + self.dims[None]).ravel()


def choose(
    whole: EncoderShape, small: EncoderShape, layers: tuple[int, ...], statistics: EncoderStatistics | None
) -> Chosen:
    """Choose: evenly, or by importance where there are statistics."""
    nothing: tuple[Means | None, ...] = (None,) * whole.layers
    heads, ffn = (statistics.heads, statistics.ffn) if statistics is not None else (nothing, nothing)
    return Chosen(
        layers=layers,
        hidden=_pick(small.hidden, whole.hidden, statistics.hidden if statistics is not None else None),
        dims=evenly(small.head_dim, whole.head_dim),
        heads=tuple(_pick(small.heads, whole.heads, heads[layer]) for layer in layers),
        ffn=tuple(_pick(small.ffn, whole.ffn, ffn[layer]) for layer in layers),
        pooled=_pick(small.pooled, whole.pooled, statistics.pooled if statistics is not None else None),
        head_dim=whole.head_dim,
    )


def _pick(count: int, of: int, importance: Means | None) -> Indices:
    return evenly(count, of) if importance is None else strongest(count, importance)


def cut(values: torch.Tensor, role: Role, chosen: Chosen, layer: int | None) -> torch.Tensor:
    """A tensor's slice, of the same type; ``layer`` is the smaller model's, None outside the layers."""
    for side, axis in enumerate(role.axes):
        if axis is not None:
            values = values.index_select(side, torch.from_numpy(chosen.places(axis, layer)))
    if role.is_query and len(chosen.dims) != chosen.head_dim:
        values = (values.double() * np.sqrt(len(chosen.dims) / chosen.head_dim)).to(values.dtype)
    return values.contiguous()

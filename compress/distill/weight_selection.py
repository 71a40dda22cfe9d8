"""Weight selection: a smaller student starts from slices of a larger model.

Idea (Xu et al., "Initializing models with larger ones", arXiv 2311.18823): a subset of a trained model's weights is a
better start than random numbers, if the subset is *consistent*: one choice of channels along the whole residual stream,
so that what a layer writes is what the next one reads.

    layer l of the student     layer L(l) of the source: evenly spaced, or the first
    residual channels          C, in the embedding, every norm, and one side of every linear
    key-value heads            whole groups, and whole query heads within a group
    head dimensions            pairs (i, i + d/2) of the rotation, every (d/d')-th: their frequencies θ^(-2i/d') stay
    feed-forward channels      F, in gate, up and down alike

Which ones: evenly spaced, as the paper has it, or those with the largest mean absolute activation on calibration text,
summed over layers (Minitron, arXiv 2407.14679). Where we depart: a norm divides by the root mean square of *its*
channels, so with calibration text every gain is multiplied by what that is of the chosen channels over that of all;
scales that depend on a width (of attention, of Gemma's embedding) are carried into weights. Slicing away zeros changes
nothing therefore, and slicing nothing away does not change a bit.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.families import EMBEDDING, FAMILIES, FINAL_NORM, HEAD, LINEARS, layer_name
from edgepress.artifact.spec import ModelSpec
from edgepress.artifact.weights import WeightSource
from edgepress.compress.distill.channel_statistics import ChannelStatistics
from edgepress.compress.distill.smaller import Size, check_smaller
from edgepress.compress.student.expected import expected_shapes

Indices = NDArray[np.intp]
Floats = NDArray[np.float32]
_VERSION = 1


def evenly(count: int, of: int) -> Indices:
    """``count`` of ``of`` places, evenly spaced, ascending."""
    return np.arange(count) * of // count


def strongest(count: int, importance: NDArray[np.floating[Any]]) -> Indices:
    """The ``count`` places of the largest importance, ascending; of equal ones the first."""
    return np.sort(np.argsort(-importance, kind="stable")[:count])


@dataclass(frozen=True)
class Selection:
    """What of a source a student takes.

    layers   of the source, one per layer of the student
    hidden   residual channels
    pairs    dimensions of a head, rotation pairs kept
    heads    query heads, by the student's layer; kv_heads and ffn likewise
    """

    layers: Indices
    hidden: Indices
    pairs: Indices
    heads: tuple[Indices, ...]
    kv_heads: tuple[Indices, ...]
    ffn: tuple[Indices, ...]


def choose(source: ModelSpec, student: ModelSpec, layers: Indices, statistics: ChannelStatistics | None) -> Selection:
    """Choose: evenly, or by importance where there are statistics."""
    kv_heads, heads, ffn = [], [], []
    for index, layer in zip(layers.tolist(), student.layers, strict=True):
        whole = source.layers[index]
        group, wanted = whole.heads // whole.kv_heads, layer.heads // layer.kv_heads
        per_head = np.ones(whole.heads) if statistics is None else statistics.heads[index]
        groups = _pick(layer.kv_heads, per_head.reshape(-1, group).sum(1), statistics is not None)
        kv_heads.append(groups)
        inside = [_pick(wanted, per_head.reshape(-1, group)[g], statistics is not None) for g in groups]
        heads.append(np.concatenate([g * group + chosen for g, chosen in zip(groups, inside, strict=True)]))
        per_channel = np.ones(whole.ffn) if statistics is None else statistics.ffn[index]
        ffn.append(_pick(layer.ffn, per_channel, statistics is not None))
    channels = np.ones(source.hidden) if statistics is None else statistics.hidden
    return Selection(
        layers=layers,
        hidden=_pick(student.hidden, channels, statistics is not None),
        pairs=_rotation_pairs(source.head_dim, student.head_dim),
        heads=tuple(heads),
        kv_heads=tuple(kv_heads),
        ffn=tuple(ffn),
    )


def _pick(count: int, importance: NDArray[np.floating[Any]], by_importance: bool) -> Indices:
    return strongest(count, importance) if by_importance else evenly(count, len(importance))


def _rotation_pairs(whole: int, wanted: int) -> Indices:
    first = np.arange(wanted // 2) * (whole // wanted)
    return np.concatenate([first, first + whole // 2])


def share_of_squares(squares: NDArray[np.float64], chosen: Indices) -> float:
    """What of a norm's input is in the chosen channels; 1 where it has none."""
    whole = squares.sum()
    return float(squares[chosen].sum() / whole) if whole else 1.0


class SelectedWeights:
    """A student cut out of a larger model; a :class:`~edgepress.artifact.weights.WeightSource`.

    Raises:
        InputError: the configuration is not one that the source contains; says which number is in the way.
    """

    def __init__(
        self,
        source: WeightSource,
        size: Size,
        statistics: ChannelStatistics | None = None,
        *,
        by_importance: bool = True,
    ) -> None:
        """Choose; tensors are cut when they are read.

        Args:
            source: the larger model.
            size: the student's configuration, and which of the source's layers it takes.
            statistics: of the source on calibration text; without them channels are evenly spaced and gains kept.
            by_importance: statistics choose the channels as well; otherwise they serve the gains alone.
        """
        check_smaller(source, size)
        self._source, self._statistics = source, statistics
        self.spec, self.config = size.spec, size.config
        self.selection = choose(source.spec, size.spec, np.asarray(size.layers), statistics if by_importance else None)
        self._shapes = expected_shapes(self.spec, self.config)
        self._family = FAMILIES[self.spec.family]

    @property
    def tokenizer_dir(self) -> Path:
        """The source's."""
        return self._source.tokenizer_dir

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors; a tied head is not listed."""
        return tuple(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._shapes[name]

    def digest(self) -> str:
        """Changes with the source and with what is chosen of it."""
        chosen = repr((_VERSION, self._source.digest(), sorted(self.config.items(), key=str), self.selection))
        gains = b"" if self._statistics is None else self._statistics.digest()
        return hashlib.sha256(chosen.encode() + gains).hexdigest()

    def read(self, name: str) -> Floats:
        """A tensor's slice, float32."""
        place = _Place.of(name)
        origin = self._origin(name, place)
        values = self._source.read(origin)
        rows, columns = self._cuts(place)
        values = values if rows is None else values[rows]
        values = values if columns is None else values[:, columns]
        return np.ascontiguousarray(self._adjusted(values, name, place, origin))

    def _origin(self, name: str, place: _Place) -> str:
        if name == HEAD and HEAD not in self._source.names:
            return EMBEDDING
        if place.layer is None:
            return name
        return layer_name(int(self.selection.layers[place.layer]), place.part, place.leaf)

    def _cuts(self, place: _Place) -> tuple[Indices | None, Indices | None]:
        """Rows and columns to keep, None for all of them; a vector has rows only."""
        chosen = self.selection
        if place.layer is None:
            return (chosen.hidden, None) if place.part == FINAL_NORM else (None, chosen.hidden)
        if place.part in self._family.norms:
            return (chosen.pairs if place.part.startswith("self_attn.") else chosen.hidden), None
        queries = _features(chosen.heads[place.layer], chosen.pairs, self._source.spec.head_dim)
        keys = _features(chosen.kv_heads[place.layer], chosen.pairs, self._source.spec.head_dim)
        ffn = chosen.ffn[place.layer]
        cuts = {
            "attn_q": (queries, chosen.hidden),
            "attn_k": (keys, chosen.hidden),
            "attn_v": (keys, chosen.hidden),
            "attn_output": (chosen.hidden, queries),
            "ffn_gate": (ffn, chosen.hidden),
            "ffn_up": (ffn, chosen.hidden),
            "ffn_down": (chosen.hidden, ffn),
        }
        rows, columns = cuts[next(role for role, part in LINEARS.items() if part == place.part)]
        return rows, columns if place.leaf == "weight" else None

    def _adjusted(self, values: Floats, name: str, place: _Place, origin: str) -> Floats:
        """With the scales that depend on a width carried over; as it is where none does."""
        is_norm = name == FINAL_NORM or place.part in self._family.norms
        factor = self._norm_factor(origin, place) if is_norm else 1.0
        widths = self._source.spec.embedding_scale / self.spec.embedding_scale
        if name == EMBEDDING:
            factor *= widths
        elif name == FINAL_NORM and self.spec.tied:
            factor /= widths  # the head is the embedding, and has its factor
        scores = self._source.spec.attention_scale / self.spec.attention_scale
        if place.part == ("self_attn.q_norm" if self._family.qk_norm else "self_attn.q_proj"):
            factor *= scores
        if factor == 1.0:
            return values
        offset = self._family.norm_offset if is_norm else 0.0
        scaled: Floats = ((values.astype(np.float64) + offset) * factor - offset).astype(np.float32)
        return scaled

    def _norm_factor(self, origin: str, place: _Place) -> float:
        """Root mean square of the chosen input channels over that of all of them."""
        if self._statistics is None:
            return 1.0
        squares = self._statistics.norm_inputs[origin]
        chosen = self.selection.pairs if place.part.startswith("self_attn.") else self.selection.hidden
        if len(chosen) == len(squares):
            return 1.0
        return float(np.sqrt(share_of_squares(squares, chosen) * len(squares) / len(chosen)))


@dataclass(frozen=True)
class _Place:
    """A tensor's name, taken apart; ``layer`` is None outside the layers, where ``part`` is the whole name."""

    layer: int | None
    part: str
    leaf: str

    @classmethod
    def of(cls, name: str) -> _Place:
        if not name.startswith("model.layers."):
            return cls(None, name, "weight")
        index, rest = name.removeprefix("model.layers.").split(".", 1)
        part, leaf = rest.rsplit(".", 1)
        return cls(int(index), part, leaf)


def _features(heads: Indices, pairs: Indices, head_dim: int) -> Indices:
    """Rows of a projection that belong to heads."""
    return (heads[:, None] * head_dim + pairs[None]).ravel()

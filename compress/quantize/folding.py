"""A model whose tensors are another's with factors folded in: the same function, a plain model, other numbers to round.

A linear is unchanged when feature j of its input is divided by s_j and column j of its weight multiplied by it,

    W x = (W · diag(s)) (diag(s)⁻¹ · x),

and diag(s)⁻¹ goes into whatever makes x: a norm's gain, the rows of up, the rows of v with its bias. What makes an
input and what reads it is ``READERS`` in ``artifact/families``. The query heads of a group read the same values, so the
factors of v come once per key-value head and its readers repeat them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.families import FAMILIES, LINEARS, READERS, layer_name
from edgepress.artifact.spec import ModelSpec
from edgepress.artifact.weights import WeightSource

Floats = NDArray[np.float32]
Factors = NDArray[np.float64]


class DerivedModel:
    """A weight source that hands out another's tensors; subclasses change them as they are read."""

    def __init__(self, source: WeightSource) -> None:
        self._source = source

    @property
    def spec(self) -> ModelSpec:
        """See :class:`~edgepress.artifact.weights.WeightSource`."""
        return self._source.spec

    @property
    def config(self) -> dict[str, Any]:
        """See :class:`~edgepress.artifact.weights.WeightSource`."""
        return self._source.config

    @property
    def tokenizer_dir(self) -> Path:
        """See :class:`~edgepress.artifact.weights.WeightSource`."""
        return self._source.tokenizer_dir

    @property
    def names(self) -> tuple[str, ...]:
        """See :class:`~edgepress.artifact.weights.WeightSource`."""
        return self._source.names

    def shape(self, name: str) -> tuple[int, ...]:
        """See :class:`~edgepress.artifact.weights.WeightSource`."""
        return self._source.shape(name)

    def read(self, name: str) -> Floats:
        """See :class:`~edgepress.artifact.weights.WeightSource`."""
        return self._source.read(name)

    def digest(self) -> str:
        """See :class:`~edgepress.artifact.weights.WeightSource`."""
        return self._source.digest()


class FoldedModel(DerivedModel):
    """A model with factors folded in; tensors are read lazily and computed in float64."""

    def __init__(self, source: WeightSource) -> None:
        super().__init__(source)
        self._rows: dict[str, Factors] = {}
        self._columns: dict[str, Factors] = {}

    def digest(self) -> str:
        """See :class:`~edgepress.artifact.weights.WeightSource`."""
        total = hashlib.sha256(self._source.digest().encode())
        for place in (self._rows, self._columns):
            for name, factors in sorted(place.items()):
                total.update(name.encode() + factors.tobytes())
        return total.hexdigest()

    def read(self, name: str) -> Floats:
        """See :class:`~edgepress.artifact.weights.WeightSource`."""
        values = self._source.read(name)
        rows, columns = self._rows.get(name), self._columns.get(name)
        if rows is None and columns is None:
            return values
        offset = _offset(self.spec, name)
        exact = values.astype(np.float64) + offset
        if rows is not None:
            exact /= rows.reshape(-1, *[1] * (exact.ndim - 1))
        if columns is not None:
            exact *= columns
        return (exact - offset).astype(np.float32)

    def input_factors(self, name: str) -> Factors:
        """What the features of a linear's input were divided by, (columns,), by the name of its weight."""
        return self._columns.get(name, np.ones(self.shape(name)[1]))

    def fold(self, layer: int, role: str, factors: Factors) -> None:
        """Divide what ``role`` makes by ``factors`` and multiply the columns of its readers; once per role.

        Args:
            layer: index.
            role: one of ``READERS``.
            factors: s, all nonzero, one per feature that ``role`` makes.
        """
        maker = FAMILIES[self.spec.family].part(role)
        makers = [layer_name(layer, maker, leaf) for leaf in ("weight", "bias")]
        self.fold_into(makers, readers_of(layer, role), factors, to_readers(factors, self.spec, layer, role))

    def fold_into(self, makers: Iterable[str], readers: Iterable[str], rows: Factors, columns: Factors) -> None:
        """Divide rows of ``makers`` and multiply columns of ``readers``; names that the model lacks do nothing."""
        self._rows |= dict.fromkeys(makers, rows)
        self._columns |= dict.fromkeys(readers, columns)


def gain(source: WeightSource, name: str) -> Factors:
    """What a norm multiplies by, float64."""
    stored: Factors = source.read(name).astype(np.float64)
    return stored + _offset(source.spec, name)


def _offset(spec: ModelSpec, name: str) -> float:
    return FAMILIES[spec.family].norm_offset if name.endswith("norm.weight") else 0.0


def readers_of(layer: int, role: str) -> list[str]:
    """Names of the weights whose columns multiply what ``role`` makes."""
    return [layer_name(layer, LINEARS[reader]) for reader in READERS[role]]


def shared_by(spec: ModelSpec, layer: int, role: str) -> int:
    """How many times a reader has each feature that ``role`` makes: once, or once per query head of a group."""
    shape = spec.layers[layer]
    return shape.heads // shape.kv_heads if role == "attn_v" else 1


def to_readers(factors: Factors, spec: ModelSpec, layer: int, role: str) -> Factors:
    """Factors of what ``role`` makes, for each column of its readers: a group's for each of its query heads."""
    shared = shared_by(spec, layer, role)
    if shared == 1:
        return factors
    return np.repeat(factors.reshape(-1, 1, spec.head_dim), shared, axis=1).reshape(-1)


def over_readers(columns: NDArray[Any], spec: ModelSpec, layer: int, role: str) -> NDArray[Any]:
    """The largest over all columns that multiply a feature, for each feature that ``role`` makes."""
    shared = shared_by(spec, layer, role)
    if shared == 1:
        return columns
    largest: NDArray[Any] = columns.reshape(-1, shared, spec.head_dim).max(axis=1).reshape(-1)
    return largest

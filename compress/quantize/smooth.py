"""SmoothQuant: move the outliers of the activations into the weights, where a scale per row bears them better.

Idea: an int8 scale for a whole activation tensor is set by its few loud features and leaves the others a handful of
levels. A linear is unchanged when feature j of its input is divided by s_j and column j of its weight multiplied by it,

    W x = (W · diag(s)) (diag(s)⁻¹ · x),        s_j = max|X_j|^a / max|W_j|^(1-a),

and diag(s)⁻¹ goes into whatever makes x, so that the model stays a plain model. a, the strength, shares the difficulty
out: 0.5 evenly. Linears with one input (q, k, v; gate, up) share s, with the maximum over all their weights.

Source: Xiao et al., "SmoothQuant" (arXiv 2211.10438), which folds into the norms before attention and feed-forward.
Where we depart: the inputs of down and o are smoothed too, through the rows of up and v. The query heads of a group
read the same values, so there s takes the maxima over the group. Strength 0 leaves the model alone, where the formula
would even out the weights; a feature that never fires, or that no weight reads, keeps s = 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.families import FAMILIES, LINEARS, READERS, layer_name
from edgepress.artifact.spec import ModelSpec
from edgepress.artifact.weights import WeightSource

Floats = NDArray[np.float32]
Factors = NDArray[np.float64]


def smoothing_factors(input_max: Floats, weight_max: Floats, strength: float) -> Factors:
    """s of the module docstring.

    Args:
        input_max: largest magnitude of each input feature, (columns,).
        weight_max: largest magnitude in each column of the weights, (columns,).
        strength: a, 0 to 1.

    Returns:
        float64, (columns,), all positive.
    """
    inputs, weights = input_max.astype(np.float64), weight_max.astype(np.float64)
    used = (inputs > 0) & (weights > 0) & (strength > 0)
    inputs, weights = np.where(used, inputs, 1.0), np.where(used, weights, 1.0)
    factors: Factors = inputs**strength / weights ** (1 - strength)
    return factors


class SmoothedModel:
    """A weight source whose tensors are another's, with the factors folded in; read lazily, computed in float64."""

    def __init__(self, source: WeightSource) -> None:
        self._source = source
        self._rows: dict[str, Factors] = {}
        self._columns: dict[str, Factors] = {}

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
        offset = FAMILIES[self.spec.family].norm_offset if name.endswith("norm.weight") else 0.0
        exact = values.astype(np.float64) + offset
        if rows is not None:
            exact /= rows.reshape(-1, *[1] * (exact.ndim - 1))
        if columns is not None:
            exact *= columns
        return (exact - offset).astype(np.float32)

    def input_factors(self, name: str) -> Factors:
        """What the features of a linear's input were divided by, (columns,), by the name of its weight."""
        return self._columns.get(name, np.ones(self.shape(name)[1]))

    def fold(self, layer: int, role: str, input_max: Mapping[str, Floats], strength: float) -> None:
        """Smooth the input that ``role`` makes and its readers multiply, from maxima by the readers' tensor names."""
        family, shape = FAMILIES[self.spec.family], self.spec.layers[layer]
        readers = [layer_name(layer, LINEARS[reader]) for reader in READERS[role]]
        shared = shape.heads // shape.kv_heads if role == "attn_v" else 1
        loudest = _over_groups(input_max[readers[0]], shared, self.spec.head_dim)
        heaviest = np.max([np.abs(self.read(reader)).max(axis=0) for reader in readers], axis=0)
        factors = smoothing_factors(loudest, _over_groups(heaviest, shared, self.spec.head_dim), strength)
        for leaf in ("weight", "bias"):
            self._rows[layer_name(layer, family.part(role), leaf)] = factors
        for reader in readers:
            self._columns[reader] = _to_heads(factors, shared, self.spec.head_dim)


def _over_groups(features: Floats, shared: int, head_dim: int) -> Floats:
    """Maxima over the query heads of each group: (groups · shared · head_dim,) → (groups · head_dim,)."""
    if shared == 1:
        return features
    maxima: Floats = features.reshape(-1, shared, head_dim).max(axis=1).reshape(-1)
    return maxima


def _to_heads(factors: Factors, shared: int, head_dim: int) -> Factors:
    """A group's factors for each of its query heads: (groups · head_dim,) → (groups · shared · head_dim,)."""
    if shared == 1:
        return factors
    return np.repeat(factors.reshape(-1, 1, head_dim), shared, axis=1).reshape(-1)


def smooth(
    source: WeightSource, input_max: Mapping[str, Floats], int8_inputs: frozenset[str], strength: float
) -> SmoothedModel:
    """Fold the factors of every input that some linear rounds to int8.

    Args:
        source: the model.
        input_max: largest magnitude of each input feature of the layers' linears, by their weights' names.
        int8_inputs: the weights whose inputs are rounded.
        strength: SmoothQuant's a.
    """
    model = SmoothedModel(source)
    for layer in range(source.spec.depth):
        for role, readers in READERS.items():
            if int8_inputs & {layer_name(layer, LINEARS[reader]) for reader in readers}:
                model.fold(layer, role, input_max, strength)
    return model

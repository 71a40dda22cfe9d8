"""SmoothQuant: move the outliers of the activations into the weights, where a scale per row bears them better.

Idea: an int8 scale for a whole activation tensor is set by its few loud features and leaves the others a handful of
levels. A linear is unchanged when feature j of its input is divided by s_j and column j of its weight multiplied by it,

    W x = (W · diag(s)) (diag(s)⁻¹ · x),        s_j = max|X_j|^a / max|W_j|^(1-a),

and diag(s)⁻¹ goes into whatever makes x (``folding``), so that the model stays a plain model. a, the strength, shares
the difficulty out: 0.5 evenly. Linears with one input (q, k, v; gate, up) share s, with the maximum over all their
weights.

Source: Xiao et al., "SmoothQuant" (arXiv 2211.10438), which folds into the norms before attention and feed-forward.
Where we depart: the inputs of down and o are smoothed too, through the rows of up and v. The query heads of a group
read the same values, so there s takes the maxima over the group. Strength 0 leaves the model alone, where the formula
would even out the weights; a feature that never fires, or that no weight reads, keeps s = 1.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgepress.artifact.families import readers_in
from edgepress.artifact.weights import WeightSource
from edgepress.compress.quantize.folding import Factors, Floats, FoldedModel, over_readers, readers_of


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


def smooth(
    source: WeightSource, input_max: Mapping[str, Floats], rounded_inputs: frozenset[str], strength: float
) -> FoldedModel:
    """Fold the factors of every input that some linear rounds.

    Args:
        source: the model.
        input_max: largest magnitude of each input feature of the layers' linears, by their weights' names.
        rounded_inputs: the weights whose inputs are rounded.
        strength: SmoothQuant's a.
    """
    model = FoldedModel(source)
    for layer, shape in enumerate(source.spec.layers):
        for role in readers_in(shape):
            if rounded_inputs & set(readers_of(layer, role)):
                model.fold(layer, role, _factors(model, layer, role, input_max, strength))
    return model


def _factors(model: FoldedModel, layer: int, role: str, input_max: Mapping[str, Floats], strength: float) -> Factors:
    """From maxima by the readers' tensor names."""
    readers, spec = readers_of(layer, role), model.spec
    loudest = over_readers(input_max[readers[0]], spec, layer, role)
    heaviest = np.max([np.abs(model.read(reader)).max(axis=0) for reader in readers], axis=0)
    return smoothing_factors(loudest, over_readers(heaviest, spec, layer, role), strength)

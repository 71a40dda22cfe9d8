"""Norm folding: the gain of a norm goes into the linears behind it, and the norm's own weight becomes ones.

    W (g ∘ x̂) = (W · diag(g)) x̂

It is what rotations of the residual stream start from (Ashkboos et al., QuaRot, arXiv 2404.00456). A block of a row
then holds columns as unlike as the gains are, which rounding pays for (docs/LOG.md). The final norm is folded into a
head of its own; where the head is tied to the embedding it cannot be, and stays. Nor do the norms behind attention and
feed-forward, or of queries and keys, have linears behind them. A gain of zero stays zero.
"""

from __future__ import annotations

import numpy as np

from edgepress.artifact.families import FAMILIES, FINAL_NORM, HEAD, READERS, layer_name
from edgepress.artifact.weights import WeightSource
from edgepress.compress.quantize.folding import Factors, FoldedModel, gain


def folding_factors(gains: Factors) -> Factors:
    """What a norm's gains are divided by, and the columns behind it multiplied by: the gains, or 1 for a zero."""
    return np.where(gains == 0, 1.0, gains)


def fold_norms(source: WeightSource) -> FoldedModel:
    """The model with every norm that has linears behind it set to ones."""
    model, family = FoldedModel(source), FAMILIES[source.spec.family]
    for layer, shape in enumerate(source.spec.layers):
        for part, role in family.norms_of(shape).items():
            if role in READERS:
                model.fold(layer, role, folding_factors(gain(source, layer_name(layer, part))))
    if HEAD in source.names:
        factors = folding_factors(gain(source, FINAL_NORM))
        model.fold_into([FINAL_NORM], [HEAD], factors, factors)
    return model

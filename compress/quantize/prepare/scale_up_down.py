"""Even columns of the down projection: what they differ by moves into the rows of the up projection.

    down (act(gate x) ∘ up x) = (down · diag(s)) (act(gate x) ∘ diag(s)⁻¹ up x),        s_i = c / ‖down_·i‖

up enters linearly, so this is exact. A row of up may be stretched for free, since its blocks have scales of their own
and stretch with it; only down's blocks see a difference. Their steps follow the largest of 32 neighbouring columns. If
column i has magnitude m_i s_i and its input energy v_i / s_i², a block's error is proportional to

    max_i (m_i s_i)² · Σ_i v_i / s_i²,

and for any maximum the sum is least with every s_i as large as that allows: all m_i s_i equal. The energies v_i cancel,
so no text is needed. c makes the geometric mean of s one; a column of zeros keeps s = 1.

Source: the folding is that of AWQ (Lin et al., arXiv 2306.00978) and cross-layer equalization (Nagel et al., arXiv
1906.04721), which evens out both sides; with a scale per block the other side needs nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.families import readers_in
from edgepress.artifact.weights import WeightSource
from edgepress.compress.quantize.folding import Factors, Floats, FoldedModel, over_readers, readers_of


def column_energy(weights: list[Floats]) -> NDArray[np.float64]:
    """Sum of squares of each column over matrices of the same width, (columns,)."""
    total: NDArray[np.float64] = np.sum([np.einsum("ij,ij->j", w, w, dtype=np.float64) for w in weights], axis=0)
    return total


def evening_factors(energy: NDArray[np.float64]) -> Factors:
    """s of the module docstring, from the squared norms of the columns; positive, (columns,)."""
    used = energy > 0
    logs = np.where(used, -np.log(np.where(used, energy, 1.0)) / 2, 0.0)
    centre = logs[used].mean() if used.any() else 0.0
    factors: Factors = np.where(used, np.exp(logs - centre), 1.0)
    return factors


def even_columns(source: WeightSource, role: str) -> FoldedModel:
    """Even out the columns of what reads ``role``'s output; a feature that several query heads read counts them all."""
    model = FoldedModel(source)
    for layer, shape in enumerate(source.spec.layers):
        if role not in readers_in(shape):
            continue
        energy = column_energy([source.read(name) for name in readers_of(layer, role)])
        model.fold(layer, role, evening_factors(over_readers(energy, source.spec, layer, role)))
    return model


def scale_up_down(source: WeightSource) -> FoldedModel:
    """The model with down's columns of equal norm."""
    return even_columns(source, "ffn_up")

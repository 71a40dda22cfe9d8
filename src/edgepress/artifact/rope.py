"""Rotary frequencies, shared by the exporters that write them into a file.

    θ_k = base^(-2k/D),  k = 0 … D/2-1
    linear:  θ_k / factor
    llama3:  θ_k                         where the wavelength 2π/θ_k < original / high_freq_factor
             θ_k / factor                where it is > original / low_freq_factor
             (1-g) θ_k/factor + g θ_k    between, g = (original/wavelength - low) / (high - low)

Source: the Llama 3.1 release; the same as transformers' ``modeling_rope_utils``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.spec import RopeSpec


def frequencies(rope: RopeSpec, head_dim: int) -> NDArray[np.float64]:
    """Angular frequency of each rotated pair, radians per token, float64, (head_dim / 2,)."""
    plain = rope.theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    return plain / divisors(rope, plain)


def divisors(rope: RopeSpec, plain: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each unscaled frequency is divided by, float64, same shape as ``plain``."""
    if rope.scaling == "none":
        return np.ones_like(plain)
    if rope.scaling == "linear":
        return np.full_like(plain, rope.factor)
    wavelength = 2 * np.pi / plain
    ramp = (rope.original_context / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    kept = np.clip(ramp, 0.0, 1.0)
    return 1.0 / ((1.0 - kept) / rope.factor + kept)

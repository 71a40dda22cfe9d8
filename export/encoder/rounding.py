"""How the input of a linear is put on int8: channel factors and one static scale, chosen by the error of the product.

SmoothQuant (Xiao et al. 2023) makes loud channels quiet before the grid sees them,

    X W = (X / f)(f W),      f_j = max|X_j|^α / max|W_j|^(1−α),

and moves the difficulty into the weights, which have a scale for every output. The paper fixes α; here it is searched
for every linear together with the clipping point of the inputs' scale, by the squared error of the product on
calibration rows, α = none included. Linears that read the same input are taken as one, with their weights side by side.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

LEVELS = 127
_ALPHAS = (None, 0.4, 0.55, 0.7, 0.85)
_INPUT_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
_WEIGHT_SHARES = np.linspace(0.7, 1.0, 13, dtype=np.float32)
_SMALLEST = np.float32(np.finfo(np.float16).smallest_subnormal)
F32 = NDArray[np.float32]


class Rounding(msgspec.Struct, frozen=True, kw_only=True):
    """What was chosen. ``factors`` (columns,) divide the input, None where plain rounding is best; ``error`` is the
    squared error of the product over that of the product itself.
    """

    factors: F32 | None
    scale: float
    error: float


def choose_rounding(inputs: F32, weight: F32) -> Rounding:
    """Search the factors and the scale of an input.

    Args:
        inputs: calibration rows, (tokens, columns).
        weight: (columns, rows), of all linears that read this input.
    """
    wanted = inputs @ weight
    energy = max(float((wanted**2).sum()), 1e-30)
    best: Rounding | None = None
    for alpha in _ALPHAS:
        factors = None if alpha is None else smoothing_factors(inputs, weight, alpha)
        x, w = (inputs, weight) if factors is None else (inputs / factors, weight * factors[:, None])
        codes, scales = quantize_columns(w)
        rounded = codes * scales
        for share in _INPUT_SHARES:
            scale = round_scale(share * float(np.abs(x).max()) / LEVELS)
            error = float(((round_to(x, scale) @ rounded - wanted) ** 2).sum()) / energy
            if best is None or error < best.error:
                best = Rounding(factors=factors, scale=float(scale), error=error)
    assert best is not None
    return best


def smoothing_factors(inputs: F32, weight: F32, alpha: float) -> F32:
    """Factors of every column, geometric mean 1, as float16 holds them."""
    x = np.maximum(np.abs(inputs).max(axis=0), 1e-4)
    w = np.maximum(np.abs(weight).max(axis=1), 1e-4)
    factors = x**alpha / w ** (1 - alpha)
    return round_scale(np.clip(factors / np.exp(np.log(factors).mean()), 1e-2, 1e2))


def quantize_columns(weight: F32) -> tuple[NDArray[np.int8], F32]:
    """int8 codes and a scale per output, by a search over clipping points.

    Args:
        weight: (columns, rows): inputs × outputs.

    Returns:
        codes int8 (columns, rows) in [-127, 127] and scales float32 (rows,) that float16 holds, of least squared error.
    """
    peak = np.abs(weight).max(axis=0)
    least, scales = np.full(weight.shape[1], np.inf, np.float32), round_scale(peak / LEVELS)
    for share in _WEIGHT_SHARES:
        tried = round_scale(share * peak / LEVELS)
        error = ((weight - round_to(weight, tried)) ** 2).sum(axis=0)
        better = error < least
        least, scales = np.where(better, error, least), np.where(better, tried, scales)
    return np.clip(np.rint(weight / scales), -LEVELS, LEVELS).astype(np.int8), scales


def round_to(values: F32, scale: F32) -> F32:
    """Values on the symmetric int8 grid of a scale."""
    rounded: F32 = scale * np.clip(np.rint(values / scale), -LEVELS, LEVELS)
    return rounded


def round_scale(scale: F32 | float) -> F32:
    """A scale as float16 holds it, never zero."""
    return np.maximum(np.asarray(scale, np.float32).astype(np.float16).astype(np.float32), _SMALLEST)

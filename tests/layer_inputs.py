"""Inputs and weights of a linear layer, and the errors that a solver is judged by, written from their definitions."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.compress.calibrate.moments import InputStatistics, Moments
from edgepress.compress.quantize.gptaq.rounded import Rounded

Wide = NDArray[np.float64]


def correlated(columns: int, tokens: int = 2000, seed: int = 0) -> Wide:
    """Inputs whose features depend on each other, as activations do, (tokens, columns)."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((columns // 4, columns))
    inputs: Wide = rng.standard_normal((tokens, columns // 4)) @ mixing + 0.5 * rng.standard_normal((tokens, columns))
    return inputs


def weights(rows: int, columns: int, seed: int = 1) -> NDArray[np.float32]:
    return (0.05 * np.random.default_rng(seed).standard_normal((rows, columns))).astype(np.float32)


def output_error(weight: NDArray[np.float32], values: NDArray[np.float32], inputs: Wide) -> float:
    """Relative squared error of the layer's output, by its definition."""
    exact = inputs @ weight.T.astype(np.float64)
    return float((((inputs @ values.T.astype(np.float64)) - exact) ** 2).sum() / (exact**2).sum())


def moments(inputs: Wide, original: Wide | None = None) -> InputStatistics:
    total = Moments()
    total.add(torch.from_numpy(inputs), None if original is None else torch.from_numpy(original))
    return total.finish()


def exact_error(state: Rounded, target: torch.Tensor, hessian: torch.Tensor) -> Wide:
    """(Ŵ - W) H (Ŵ - W)ᵀ per row in float64."""
    difference = (state.values().double() - target.double()).numpy()
    error: Wide = np.einsum("ri,ij,rj->r", difference, hessian.double().numpy(), difference)
    return error

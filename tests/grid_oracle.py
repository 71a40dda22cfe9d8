"""How near a quantized tensor's values could be, by trying every level of its grid in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.quantized import QuantizedTensor


def distance_to_nearest_level(tensor: QuantizedTensor, weight: NDArray[np.float32]) -> NDArray[np.float64]:
    """The least error of each value for the tensor's scales and minima, (rows, columns); with a slack of 2e-4 steps."""
    step, offset = tensor.step().astype(np.float64), tensor.offset()
    shift = np.zeros_like(step) if offset is None else offset.astype(np.float64)
    step, shift = (np.repeat(part, tensor.block_size, axis=1) for part in (step, shift))
    every = np.array(tensor.spec.levels)[:, None, None] * step + shift
    least: NDArray[np.float64] = np.abs(every - weight).min(axis=0) + 2e-4 * np.abs(step)
    return least

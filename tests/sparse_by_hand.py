"""SparseGPT's walk with plain inverses, in float64."""

from __future__ import annotations

import numpy as np

from edgepress.compress.prune.sparse_matrix import Pattern


def sparse_by_hand(weight: np.ndarray, hessian: np.ndarray, pattern: Pattern) -> np.ndarray:
    """Column by column, with the inverse of what is left of H computed anew each time."""
    left, count = weight.astype(np.float64), weight.shape[1]
    inverses = [np.linalg.inv(hessian[column:, column:]) for column in range(count)]
    gone = np.zeros_like(left, dtype=bool)
    if not pattern.of:
        costs = np.stack([left[:, column] ** 2 / inverses[column][0, 0] for column in range(count)], 1)
        gone.flat[np.argsort(costs, axis=None)[: round(pattern.share * costs.size)]] = True
    for column in range(count):
        if pattern.of and column % pattern.of == 0:
            group = range(column, column + pattern.of)
            costs = np.stack([left[:, at] ** 2 / inverses[at][0, 0] for at in group], 1)
            for row in range(len(left)):
                gone[row, column + np.argsort(costs[row])[: pattern.zeros]] = True
        for row in np.flatnonzero(gone[:, column]).tolist():
            left[row, column:] -= left[row, column] / inverses[column][0, 0] * inverses[column][:, 0]
            left[row, column] = 0
    return left

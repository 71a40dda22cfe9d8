"""The predicted frontier: the least divergence at every size, from the smallest formats to the finest.

Each point is an exact allocation (``allocate``) for a budget between the bytes of the smallest formats and those of the
formats that lose least; between the points the curve is not known to be straight.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgepress.compress.search.allocate import allocate
from edgepress.compress.search.records import FrontierPoint

POINTS = 16


def predicted_frontier(
    losses: Mapping[str, Mapping[str, float]],
    sizes: Mapping[str, Mapping[str, int]],
    other_bytes: int,
    points: int = POINTS,
) -> tuple[FrontierPoint, ...]:
    """Points of falling divergence; fewer than asked for where budgets lead to the same formats.

    Args:
        losses: matrix → format → predicted divergence in nats per token.
        sizes: matrix → format → bytes.
        other_bytes: of the file, that are not the matrices'.
        points: budgets to solve for.
    """
    smallest = sum(min(row.values()) for row in sizes.values())
    finest = sum(min((losses[name][format], size) for format, size in row.items())[1] for name, row in sizes.items())
    found: dict[int, float] = {}
    for budget in np.linspace(smallest, max(smallest, finest), points):
        chosen = allocate(losses, sizes, float(np.ceil(budget)))
        used = sum(sizes[name][format] for name, format in chosen.items())
        found[used] = sum(losses[name][format] for name, format in chosen.items())
    return tuple(FrontierPoint(file_bytes=used + other_bytes, predicted_kld=found[used]) for used in sorted(found))

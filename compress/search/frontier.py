"""The predicted frontier: the least divergence at every size, from the smallest formats to the finest.

Each point is an exact allocation (``allocate``) for a budget between the bytes of the smallest formats and those of the
formats that lose least, within the bound on the time of a token where there is one; between the points the curve is not
known to be straight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgepress.compress.search.allocate import allocate, smallest_within
from edgepress.compress.search.limits import Limit
from edgepress.compress.search.records import FrontierPoint

POINTS = 16


def predicted_frontier(
    losses: Mapping[str, Mapping[str, float]],
    sizes: Mapping[str, Mapping[str, int]],
    other_bytes: int,
    time: Limit | None = None,
    points: int = POINTS,
) -> tuple[FrontierPoint, ...]:
    """Points of falling divergence; fewer than asked for where budgets lead to the same formats.

    Args:
        losses: matrix → format → predicted divergence in nats per token.
        sizes: matrix → format → bytes.
        other_bytes: of the file, that are not the matrices'.
        time: a bound on the time of a token, which every point keeps.
        points: budgets to solve for.
    """
    ends = smallest_within(sizes, time), allocate(losses, sizes, math.inf, time)
    smallest, finest = (sum(sizes[name][format] for name, format in end.items()) for end in ends)
    found: dict[int, float] = {}
    for budget in np.linspace(smallest, max(smallest, finest), points):
        chosen = allocate(losses, sizes, float(np.ceil(budget)), time)
        used = sum(sizes[name][format] for name, format in chosen.items())
        found[used] = sum(losses[name][format] for name, format in chosen.items())
    return tuple(FrontierPoint(file_bytes=used + other_bytes, predicted_kld=found[used]) for used in sorted(found))

"""From a standard error to a 95 % interval."""

from __future__ import annotations

from edgepress.benchmarks.records import QualityRecord
from edgepress.benchmarks.statistics import t_quantile_975


def interval_factor(quality: QualityRecord) -> float:
    """Standard errors in half a 95 % interval: Student's t over the windows, over positions where one window is all."""
    units = quality.windows if quality.windows > 1 else quality.tokens
    return t_quantile_975(max(1, units - 1))

"""Means with errors, percentiles, and intervals that stay honest for five repetitions.

- Clustered standard error: tokens of one window share a text, so their scores are correlated, and dividing by the
  square root of the number of tokens claims too much. With windows of equal length the mean of all tokens is the mean
  of the window means, whose standard deviation over the square root of the number of windows is the right error.
- Bootstrap interval, expanded: resampling n values draws from a spread that is smaller by (n-1)/n and knows nothing
  of Student's t, so that the plain 95 % interval of 5 repetitions covers about 83 %. The quantiles taken are therefore
  Φ(∓ t·√(n/(n-1))) instead of 2.5 % and 97.5 % (Hesterberg, "What Teachers Should Know About the Bootstrap", 2015).
- Paired ratio: the mean of log(second/first) over pairs with Student's t interval, taken back by exp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgepress.benchmarks.records import PairedRatio, Spread

# 97.5 % quantiles of Student's t for 1 to 10 degrees of freedom; the expansion below serves beyond.
_T975 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
_Z975 = 1.959963984540054
_RESAMPLES = 10_000


class Estimate(NamedTuple):
    """A mean and its standard error, in the unit of the values."""

    mean: float
    se: float


def clustered_mean(values: NDArray[np.floating]) -> Estimate:
    """Mean of all values with a standard error that allows for correlation within a row.

    Args:
        values: (windows, positions). With one window there is nothing to cluster: the error is then that of
            independent positions, which is too small where neighbours are alike.
    """
    units = np.asarray(values, dtype=np.float64)
    units = units.mean(axis=1) if len(units) > 1 else units[0]
    if len(units) < 2:
        return Estimate(float(units.mean()), math.nan)
    return Estimate(float(units.mean()), float(units.std(ddof=1) / math.sqrt(len(units))))


def percentiles(samples: Sequence[float] | NDArray[np.floating], levels: Sequence[float]) -> tuple[float, ...]:
    """Percentiles of raw samples, linear between neighbours; levels in percent."""
    return tuple(float(value) for value in np.percentile(np.asarray(samples, dtype=np.float64), levels))


def spread(samples: Sequence[float], seed: int = 0) -> Spread:
    """What repetitions say: mean, standard deviation, median and an expanded bootstrap 95 % interval of the mean."""
    values = np.asarray(samples, dtype=np.float64)
    low, high = bootstrap_interval(values, seed) if len(values) > 1 else (None, None)
    return Spread(
        n=len(values),
        mean=float(values.mean()),
        stdev=float(values.std(ddof=1)) if len(values) > 1 else None,
        median=float(np.median(values)),
        low95=low,
        high95=high,
    )


def bootstrap_interval(values: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """Expanded percentile bootstrap, 95 %, of the mean of at least two values."""
    n = len(values)
    picks = np.random.default_rng(seed).integers(0, n, size=(_RESAMPLES, n))
    tail = _normal_cdf(-t_quantile_975(n - 1) * math.sqrt(n / (n - 1)))
    low, high = np.quantile(values[picks].mean(axis=1), (tail, 1 - tail))
    return float(low), float(high)


def paired_ratio(first: Sequence[float], second: Sequence[float]) -> PairedRatio:
    """Geometric mean of second/first over pairs, with Student's t interval on the logarithm.

    Args:
        first, second: positive values of the same turns, equally many.
    """
    logs = np.log(np.asarray(second, dtype=np.float64) / np.asarray(first, dtype=np.float64))
    centre, pairs = float(logs.mean()), len(logs)
    low = high = None
    if pairs > 1:
        half = t_quantile_975(pairs - 1) * float(logs.std(ddof=1)) / math.sqrt(pairs)
        low, high = math.exp(centre - half), math.exp(centre + half)
    ratios = tuple(float(ratio) for ratio in np.exp(logs))
    return PairedRatio(ratio=math.exp(centre), low95=low, high95=high, pairs=pairs, samples=ratios)


def t_quantile_975(degrees: int) -> float:
    """97.5 % quantile of Student's t, to four digits (table, then the Cornish-Fisher expansion about the normal)."""
    if degrees <= len(_T975):
        return _T975[degrees - 1]
    z, d = _Z975, float(degrees)
    first = (z**3 + z) / (4 * d)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * d**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * d**3)
    return z + first + second + third


def _normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))

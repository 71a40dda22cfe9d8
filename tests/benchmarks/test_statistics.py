"""Errors and intervals cover what they say they cover."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgepress.benchmarks.statistics import clustered_mean, paired_ratio, percentiles, spread, t_quantile_975


def test_the_clustered_error_is_the_scatter_of_means_over_correlated_windows() -> None:
    """Windows share an effect of their own: the error must predict how means of whole experiments scatter."""
    rng = np.random.default_rng(0)
    experiments = [
        rng.standard_normal((12, 1)) * 0.3 + rng.standard_normal((12, 64)) for _ in range(2_000)
    ]  # (windows, positions)
    estimates = [clustered_mean(values) for values in experiments]
    scatter = np.std([estimate.mean for estimate in estimates], ddof=1)
    claimed = math.sqrt(np.mean([estimate.se**2 for estimate in estimates]))
    independent = math.sqrt(np.mean([values.var(ddof=1) / values.size for values in experiments]))
    assert claimed == pytest.approx(scatter, rel=0.05)
    assert independent < 0.5 * scatter  # what ignoring the windows would have claimed


def test_the_mean_is_the_mean_of_all_values_and_one_window_falls_back_to_positions() -> None:
    values = np.random.default_rng(1).standard_normal((3, 10))
    assert clustered_mean(values).mean == pytest.approx(values.mean(), rel=1e-14)
    one = clustered_mean(values[:1])
    assert one.se == pytest.approx(values[0].std(ddof=1) / math.sqrt(10), rel=1e-12)
    assert math.isnan(clustered_mean(values[:1, :1]).se)


def test_percentiles_are_numpys_on_the_raw_samples() -> None:
    samples = np.random.default_rng(2).exponential(size=77)
    ordered = sorted(samples)
    assert percentiles(list(samples), (50, 100)) == (ordered[38], ordered[-1])
    place = 0.99 * 76
    between = ordered[int(place)] + (place - int(place)) * (ordered[int(place) + 1] - ordered[int(place)])
    assert percentiles(samples, (99,))[0] == pytest.approx(between, rel=1e-14)


@pytest.mark.parametrize("n", [5, 10])
def test_the_expanded_bootstrap_covers_the_mean_about_as_often_as_it_says(n: int) -> None:
    rng = np.random.default_rng(3)
    runs = [spread(list(row), seed=k) for k, row in enumerate(rng.standard_normal((200, n)))]
    covered = sum(run.low95 <= 0 <= run.high95 for run in runs if run.low95 is not None and run.high95 is not None)
    assert covered >= 0.88 * len(runs)


def test_a_single_repetition_has_no_interval() -> None:
    alone = spread([3.0])
    assert (alone.n, alone.mean, alone.median) == (1, 3.0, 3.0)
    assert alone.stdev is None
    assert alone.low95 is None
    assert alone.high95 is None


def test_paired_ratios_use_the_pairs_and_not_the_two_groups() -> None:
    """A drift that falls on both models alike leaves the interval of their ratio narrow."""
    rng = np.random.default_rng(4)
    drift = np.linspace(1.0, 2.0, 8)
    first, second = 100 * drift, 110 * drift * np.exp(rng.standard_normal(8) * 0.01)
    result = paired_ratio(list(first), list(second))
    assert result.ratio == pytest.approx(np.exp(np.mean(np.log(second / first))), rel=1e-12)
    assert result.low95 is not None
    assert result.high95 is not None
    assert 1.08 < result.low95 < result.ratio < result.high95 < 1.13
    assert result.samples == pytest.approx(second / first)


def test_paired_intervals_cover_the_ratio_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(2_000):
        logs = rng.standard_normal((2, 5)) * 0.05
        result = paired_ratio(list(np.exp(logs[0])), list(1.2 * np.exp(logs[1])))
        assert result.low95 is not None
        assert result.high95 is not None
        hits += result.low95 <= 1.2 <= result.high95
    assert 0.935 < hits / 2_000 < 0.965


def test_students_quantiles_are_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    for degrees in (*range(1, 41), 100, 1000):
        assert t_quantile_975(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-4)

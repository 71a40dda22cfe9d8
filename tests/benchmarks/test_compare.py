"""A verdict claims a difference only where the interval shows one."""

from __future__ import annotations

import pytest

from edgepress.benchmarks.compare import verdict
from edgepress.benchmarks.records import PairedRatio


def _ratio(ratio: float, low: float | None, high: float | None, pairs: int = 5) -> PairedRatio:
    return PairedRatio(ratio=ratio, low95=low, high95=high, pairs=pairs, samples=(ratio,) * pairs)


def test_a_difference_is_said_with_its_interval_and_its_pairs() -> None:
    said = verdict("decode_tokens_per_s", _ratio(1.12, 1.08, 1.15), "A", "B")
    assert said == "B decodes 1.12 × as fast as A, 95 % interval 1.08-1.15; n = 5 pairs"
    assert verdict("peak_rss_bytes", _ratio(0.5, 0.5, 0.5), "A", "B").startswith("B needs 0.50 × the memory of A")


@pytest.mark.parametrize(("low", "high"), [(0.97, 1.05), (1.0, 1.2), (1.001, 1.004), (0.9, 0.999)])
def test_an_interval_at_one_shows_no_difference(low: float, high: float) -> None:
    said = verdict("ttft_ms", _ratio((low * high) ** 0.5, low, high), "A", "B")
    assert said.startswith("time to first token: no difference could be shown")
    assert f"{low:.2f}-{high:.2f}" in said


def test_one_pair_shows_nothing() -> None:
    assert "one pair shows no interval" in verdict("prefill_tokens_per_s", _ratio(1.5, None, None, 1), "A", "B")

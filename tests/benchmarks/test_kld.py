"""Divergence, agreement and surprise are what their definitions say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from bigram_session import log_softmax

from edgepress.benchmarks.kld import row_chunks, score


def _brute_force(x: list[float], y: list[float]) -> float:
    """KL as the definition has it, in exact sums of probabilities and without a shared normaliser trick."""
    total_p, total_q = math.fsum(map(math.exp, x)), math.fsum(map(math.exp, y))
    p, q = [math.exp(v) / total_p for v in x], [math.exp(v) / total_q for v in y]
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
def test_scores_equal_a_brute_force_over_probabilities(spread: float) -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((7, 300)) * spread).astype(np.float32)
    y = (x + rng.standard_normal(x.shape) * 0.2).astype(np.float32)
    targets = rng.integers(0, 300, 7)
    scores = score(x, y, targets)
    for row in range(7):
        xs, ys = [float(v) for v in x[row]], [float(v) for v in y[row]]
        assert scores.kld[row] == pytest.approx(_brute_force(xs, ys), rel=1e-10, abs=1e-13)
        q = math.exp(ys[targets[row]]) / math.fsum(map(math.exp, ys))
        assert scores.nll[row] == pytest.approx(-math.log(q), rel=1e-12)
        assert scores.agrees[row] == (xs.index(max(xs)) == ys.index(max(ys)))


def test_large_logits_and_a_common_offset_do_no_harm() -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(-400, 400, (5, 50)).astype(np.float32)
    y = rng.integers(-400, 400, (5, 50)).astype(np.float32)
    targets = np.zeros(5, dtype=np.int64)
    near, far = score(x, y, targets), score(x + 20000, y - 20000, targets)
    log_p, log_q = log_softmax(x), log_softmax(y)
    expected = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    np.testing.assert_allclose(near.kld, expected.astype(np.float64), rtol=1e-12)
    np.testing.assert_allclose(far.kld, near.kld, rtol=1e-9)
    np.testing.assert_allclose(far.nll, near.nll, rtol=1e-9)


def test_a_model_compared_with_itself_scores_zero_and_agrees_everywhere() -> None:
    x = np.random.default_rng(2).standard_normal((9, 1000)).astype(np.float32) * 4
    scores = score(x, x.copy(), np.arange(9))
    assert np.abs(scores.kld).max() < 1e-12
    assert scores.agrees.all()
    np.testing.assert_array_equal(scores.nll, scores.nll_reference)


def test_ties_go_to_the_lower_id_on_both_sides() -> None:
    x = np.zeros((1, 10), dtype=np.float32)
    y = np.zeros((1, 10), dtype=np.float32)
    y[0, 3] = 0.5
    assert score(x, x, np.array([0])).agrees.all()
    assert not score(x, y, np.array([0])).agrees.any()


def test_taking_rows_in_chunks_changes_nothing() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((40, 20_000)).astype(np.float32)
    y = x + rng.standard_normal(x.shape).astype(np.float32)
    targets = rng.integers(0, 20_000, 40)
    assert len(list(row_chunks(40, 20_000))) > 1
    together = score(x, y, targets)
    for row in range(40):
        alone = score(x[row : row + 1], y[row : row + 1], targets[row : row + 1])
        assert alone.kld[0] == pytest.approx(together.kld[row], rel=1e-13)


@pytest.mark.parametrize(("rows", "vocab"), [(1, 5), (100, 150_000), (1000, 320), (7, 2**20)])
def test_chunks_cover_every_row_once(rows: int, vocab: int) -> None:
    covered = [row for at in row_chunks(rows, vocab) for row in range(at.start, at.stop)]
    assert covered == list(range(rows))

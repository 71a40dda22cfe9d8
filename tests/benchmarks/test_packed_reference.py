"""The packed reference loses nothing that a mean divergence could see."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgepress.benchmarks.kld import score
from edgepress.benchmarks.packed_reference import pack, score_packed, unpack_weights

# Standard deviation of the logits: an untrained model, an unsure one, a sure one.
SPREADS = {"flat": 0.5, "unsure": 3.0, "peaked": 7.0}


def _logits(vocab: int, spread: float, rows: int, seed: int) -> NDArray[np.float32]:
    """Heavy-tailed random logits, so that there are likely tokens, a bulk and outliers below it."""
    values = np.random.default_rng(seed).standard_t(8, (rows, vocab)) * spread
    return values.astype(np.float32)


@pytest.mark.parametrize("noise", [0.03, 0.5])
@pytest.mark.parametrize("spread", SPREADS.values(), ids=SPREADS)
@pytest.mark.parametrize(("vocab", "rows"), [(5_000, 400), (50_000, 60)])
def test_the_mean_divergence_moves_by_less_than_one_in_a_hundred_thousand(
    vocab: int, rows: int, spread: float, noise: float
) -> None:
    x = _logits(vocab, spread, rows, 0)
    y = x + _logits(vocab, noise, rows, 1)
    targets = np.random.default_rng(2).integers(0, vocab, rows)
    exact, packed = score(x, y, targets), score_packed(pack(x, targets), y, targets)
    assert abs(packed.kld.mean() - exact.kld.mean()) < 1e-5
    assert abs(np.percentile(packed.kld, 99) - np.percentile(exact.kld, 99)) < 1e-4
    assert np.abs(packed.kld - exact.kld).max() < 1e-3
    np.testing.assert_array_equal(packed.agrees, exact.agrees)
    np.testing.assert_allclose(packed.nll, exact.nll, rtol=1e-14)
    np.testing.assert_allclose(packed.nll_reference, exact.nll_reference, rtol=1e-14)


@pytest.mark.parametrize("spread", SPREADS.values(), ids=SPREADS)
@pytest.mark.parametrize("vocab", [1, 2, 255, 256, 257, 5_000])
def test_a_model_compared_with_its_packed_self_scores_zero(vocab: int, spread: float) -> None:
    x = _logits(vocab, spread, 20, 3)
    targets = np.random.default_rng(4).integers(0, vocab, 20)
    scores = score_packed(pack(x, targets), x, targets)
    assert np.abs(scores.kld).max() < 1e-10
    assert scores.agrees.all()
    np.testing.assert_allclose(scores.nll, scores.nll_reference, rtol=1e-13)


def test_weights_are_a_distribution_with_an_exact_head() -> None:
    x = _logits(3_000, 3.0, 15, 5)
    packed = pack(x, np.zeros(15, dtype=np.int64))
    weights = unpack_weights(packed)
    p = np.exp(x.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-14)
    head = np.argsort(-x, axis=1)[:, :256]
    np.testing.assert_allclose(
        np.take_along_axis(weights, head, axis=1), np.take_along_axis(p, head, axis=1), rtol=2e-6
    )
    tail = 1 - np.take_along_axis(p, head, axis=1).sum(axis=1)
    np.testing.assert_allclose(packed.tail_mass, tail, rtol=1e-9, atol=1e-14)


def test_equal_logits_and_masked_tokens_are_packed_too() -> None:
    x = np.zeros((2, 4_000), dtype=np.float32)
    x[1, 1_000:] = -1e30  # a padded vocabulary, masked
    y = x + np.random.default_rng(6).standard_normal(x.shape).astype(np.float32)
    targets = np.array([5, 7])
    exact, packed = score(x, y, targets), score_packed(pack(x, targets), y, targets)
    np.testing.assert_allclose(packed.kld, exact.kld, atol=1e-9)
    np.testing.assert_array_equal(pack(x, targets).argmax, [0, 0])


def test_a_position_takes_about_one_byte_per_token_of_the_vocabulary() -> None:
    packed = pack(_logits(49_152, 2.0, 4, 7), np.zeros(4, dtype=np.int64))
    stored = sum(array.nbytes for array in packed.arrays().values())
    assert stored / (4 * 49_152) < 1.05

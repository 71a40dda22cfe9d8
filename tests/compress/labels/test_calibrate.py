"""A constant leaning towards a label is taken off to the last digit where theory says so."""

from __future__ import annotations

import numpy as np
import pytest

from edgepress.compress.labels.calibrate import lean_to_prior, mean_lean, probabilities

LEANING = np.array([2.0, -1.0, 0.25])


def unleaning(texts: int, seed: int = 0) -> np.ndarray:
    """Scores whose mean probabilities are equal: every row comes in all rotations."""
    rows = np.random.default_rng(seed).normal(size=(texts, 3)) * 2
    return np.concatenate([np.roll(rows, turn, axis=1) for turn in range(3)])


def test_content_free_texts_give_the_leaning_away() -> None:
    scores = unleaning(20)
    lean = mean_lean(np.zeros((4, 3)) + LEANING)  # says nothing but its leaning
    assert np.abs(probabilities(scores + LEANING) - probabilities(scores)).max() > 0.5
    np.testing.assert_allclose(probabilities(scores + LEANING, lean), probabilities(scores), atol=1e-14)


def test_content_free_texts_are_averaged_as_probabilities() -> None:
    free = np.log([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    np.testing.assert_allclose(np.exp(mean_lean(free)), [0.3, 0.2, 0.5])


def test_the_texts_themselves_give_a_leaning_away_where_they_are_balanced() -> None:
    scores = unleaning(20)
    lean = lean_to_prior(scores + LEANING, np.full(3, 1 / 3))
    np.testing.assert_allclose(probabilities(scores + LEANING, lean), probabilities(scores), atol=1e-9)


def test_batch_calibration_divides_by_the_mean_probability() -> None:
    given = np.array([[0.6, 0.4], [0.9, 0.1], [0.3, 0.7]])
    divided = given / given.mean(axis=0)
    wanted = divided / divided.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities(np.log(given), mean_lean(np.log(given))), wanted)


def test_batch_calibration_makes_a_leaning_smaller_and_not_zero() -> None:
    scores = unleaning(50)
    off = [
        np.abs(probabilities(scores + LEANING, lean) - probabilities(scores)).mean()
        for lean in (np.zeros(3), mean_lean(scores + LEANING))
    ]
    assert 1e-3 < off[1] < 0.5 * off[0]


@pytest.mark.parametrize("prior", [[0.2, 0.3, 0.5], [0.01, 0.01, 0.98]])
def test_the_mean_probabilities_are_the_prior(prior: list[float]) -> None:
    scores = np.random.default_rng(1).normal(size=(200, 3)) * 3 + LEANING
    lean = lean_to_prior(scores, np.array(prior))
    np.testing.assert_allclose(probabilities(scores, lean).mean(axis=0), prior, atol=1e-8)


def test_scores_far_from_zero_overflow_nothing() -> None:
    np.testing.assert_allclose(probabilities(np.array([[-1e4, -1e4 + np.log(3)]])), [[0.25, 0.75]])

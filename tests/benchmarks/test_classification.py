"""Scores of labels against formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgepress.benchmarks.classification import (
    calibration_bins,
    confusion,
    expected_calibration_error,
    macro_f1,
    mean_and_error,
    score_labels,
    score_probabilities,
)

GOLD = np.array([0, 0, 0, 1, 1, 2])
TOLD = np.array([0, 1, 0, 1, 0, 1])


def test_confusion_counts_gold_by_told() -> None:
    assert confusion(TOLD, GOLD, 3).tolist() == [[2, 1, 0], [1, 1, 0], [0, 1, 0]]


def test_scores_by_hand() -> None:
    found = score_labels(TOLD, GOLD, 3)
    assert found.accuracy == pytest.approx(3 / 6)
    assert found.accuracy_se == pytest.approx(math.sqrt(0.25 * 6 / 5) / math.sqrt(6))
    # F1: label 0 has P 2/3, R 2/3; label 1 P 1/3, R 1/2; label 2 none right
    assert found.macro_f1 == pytest.approx((2 / 3 + 2 / 5 + 0) / 3)
    assert found.confusion == ((2, 1, 0), (1, 1, 0), (0, 1, 0))
    assert found.ece is None


def test_a_label_that_is_nowhere_does_not_count() -> None:
    assert macro_f1(confusion(np.array([0, 1]), np.array([0, 1]), 4)) == 1.0


def test_the_bootstrap_error_of_f1_is_that_of_accuracy_where_they_are_alike() -> None:
    gold = np.tile([0, 1], 400)
    told = np.where(np.random.default_rng(0).random(800) < 0.3, 1 - gold, gold)
    found = score_labels(told, gold, 2)
    assert found.macro_f1_se == pytest.approx(found.accuracy_se, rel=0.15)


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.95, 0.05], [0.05, 0.95], [0.62, 0.38], [0.68, 0.32], [1.0, 0.0]])
    gold = np.array([0, 0, 0, 1, 0])
    bins = calibration_bins(probabilities, gold)
    assert [(each.texts, each.accuracy) for each in bins] == [(2, 0.5), (3, pytest.approx(2 / 3))]
    wanted = (2 * abs(0.5 - 0.65) + 3 * abs(2 / 3 - (0.95 + 0.95 + 1.0) / 3)) / 5
    assert expected_calibration_error(bins) == pytest.approx(wanted)
    assert score_probabilities(probabilities, gold).ece == pytest.approx(wanted)


def test_true_probabilities_have_little_calibration_error() -> None:
    random = np.random.default_rng(1)
    first = random.random(20_000)
    gold = (random.random(20_000) > first).astype(np.intp)
    honest, boastful = np.stack([first, 1 - first], 1), np.stack([first > 0.5, first <= 0.5], 1).astype(float)
    assert score_probabilities(honest, gold).ece == pytest.approx(0, abs=0.01)
    assert score_probabilities(boastful, gold).ece == pytest.approx(0.25, abs=0.02)


def test_one_value_has_no_error() -> None:
    assert math.isnan(mean_and_error(np.array([1.0])).se)

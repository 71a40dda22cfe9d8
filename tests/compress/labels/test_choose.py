"""Filters, by hand."""

from __future__ import annotations

import numpy as np

from edgepress.compress.labels.choose import capped, margins, sure

# label 0: margins 0.8, 0.2, 0.6, 0.2; label 1: 0.4, 0.1
PROBABILITIES = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2], [0.45, 0.55], [0.6, 0.4]])
ALL = np.ones(6, np.bool_)


def test_the_margin_is_the_distance_of_the_two_likeliest() -> None:
    np.testing.assert_allclose(margins(np.array([[0.5, 0.2, 0.3], [0.1, 0.1, 0.8]])), [0.2, 0.7])


def test_unsure_texts_go() -> None:
    assert sure(PROBABILITIES, margin=0.15, keep=1.0).tolist() == [True, True, True, True, False, True]


def test_a_share_of_each_label_is_kept_rounded_up_and_the_earlier_of_equals() -> None:
    assert sure(PROBABILITIES, margin=0.0, keep=0.5).tolist() == [True, False, True, True, False, False]
    assert sure(PROBABILITIES, margin=0.0, keep=0.75).tolist() == [True, True, True, True, True, False]


def test_a_cap_takes_the_surest_of_each_label() -> None:
    assert capped(PROBABILITIES, ALL, 1).tolist() == [True, False, True, False, False, False]
    assert capped(PROBABILITIES, ALL, 3).tolist() == [True, True, True, True, True, False]
    assert capped(PROBABILITIES, ALL, None) is ALL


def test_the_rarest_label_caps_the_others() -> None:
    assert capped(PROBABILITIES, ALL, "smallest").tolist() == [True, False, True, True, True, False]
    fewer = ALL & (np.arange(6) != 2)
    assert capped(PROBABILITIES, fewer, "smallest").tolist() == [True, False, False, False, True, False]


def test_a_cap_counts_what_is_left_only() -> None:
    left = ALL & (np.arange(6) != 0)
    assert capped(PROBABILITIES, left, 1).tolist() == [False, False, True, True, False, False]

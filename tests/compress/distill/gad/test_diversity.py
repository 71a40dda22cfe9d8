"""Diversity of answers, by hand."""

from __future__ import annotations

import math

import pytest

from edgepress.compress.distill.gad.diversity import bleu, distinct_n, self_bleu


def test_distinct_counts_runs_over_all_answers() -> None:
    assert distinct_n([[1, 2, 3], [1, 2, 4], [9]], 2) == 3 / 4
    assert distinct_n([[7, 7, 7, 7]], 2) == 1 / 3
    assert distinct_n([[7, 7], [8]], 3) == 0  # answers of a token or two are as little diverse as can be


def test_bleu_is_the_mean_of_precisions() -> None:
    answer, reference = [1, 2, 3, 4, 5], [1, 2, 3, 9, 5]
    precisions = (4 / 5, (2 + 1) / (4 + 1), (1 + 1) / (3 + 1), (0 + 1) / (2 + 1))
    assert bleu(answer, [reference]) == pytest.approx(math.prod(precisions) ** 0.25)
    assert bleu(answer, [answer, reference]) == pytest.approx(1)
    assert bleu([1, 1, 1, 1], [[1, 2, 3, 4]]) == pytest.approx((1 / 4 * 1 / 4 * 1 / 3 * 1 / 2) ** 0.25)
    assert bleu([1, 2, 3], [[4, 5, 6]]) == 0


def test_a_short_answer_pays_for_what_it_leaves_out() -> None:
    assert bleu([1, 2], [[1, 2, 3, 4]]) == pytest.approx(math.exp(1 - 4 / 2))
    assert bleu([1, 2], [[1, 2, 3, 4], [1, 2]]) == pytest.approx(1)


def test_self_bleu_is_one_where_all_answers_to_a_prompt_are_alike_and_zero_where_nothing_is() -> None:
    assert self_bleu([[[1, 2, 3], [1, 2, 3]], [[4, 5], [4, 5]]]) == pytest.approx(1)
    assert self_bleu([[[1, 2, 3], [4, 5, 6]]]) == 0
    assert self_bleu([[[1, 2], [1, 2]], [[3, 4], [5, 6]]]) == pytest.approx(0.5)

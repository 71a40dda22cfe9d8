"""What is trained on of a teacher's answers: each rule against its definition, and every answer accounted for."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from edgepress.compress.distill.answers import Answered, Filter, Reason, choose, fault
from edgepress.compress.distill.consensus import most_agreed, unigram_f1
from edgepress.compress.distill.near_duplicates import near_duplicates, shingle_hashes
from edgepress.compress.distill.words import repeated_share, words_of
from edgepress.errors import InputError
from edgepress.runtime.answering import Answer


def said(text: str, finish: str = "stop") -> Answer:
    return Answer(text=text, finish=finish)


def shingles(words: list[str], size: int = 5) -> set[tuple[str, ...]]:
    if len(words) < size:
        return {tuple(words)} if words else set()
    return {tuple(words[place : place + size]) for place in range(len(words) - size + 1)}


def compare_all(texts: list[list[str]], threshold: float) -> list[int | None]:
    """Every text with every earlier one that stays."""
    found: list[int | None] = []
    for number, words in enumerate(texts):
        own, alike = shingles(words), None
        for other in (other for other in range(number) if found[other] is None):
            theirs = shingles(texts[other])
            if own | theirs and len(own & theirs) / len(own | theirs) >= threshold:
                alike = other
                break
        found.append(alike)
    return found


def altered(words: list[str], chance: random.Random) -> list[str]:
    """A text with a few words changed, left out or added."""
    copy = list(words)
    for _ in range(chance.randint(0, 4)):
        place = chance.randrange(len(copy) + 1)
        copy[place : place + chance.randint(0, 1)] = [chance.choice("abcdefgh")] * chance.randint(0, 1)
    return copy


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_near_duplicates_are_those_of_comparing_all_pairs(threshold: float, seed: int) -> None:
    chance = random.Random(seed)
    texts: list[list[str]] = []
    for _ in range(120):
        new = [chance.choice("abcdefgh") for _ in range(chance.randint(0, 40))]
        texts.append(altered(chance.choice(texts), chance) if texts and chance.random() < 0.6 else new)
    wanted = compare_all(texts, threshold)
    assert near_duplicates(texts, threshold) == wanted
    assert len([1 for found in wanted if found is not None]) > 5


def test_likeness_right_at_the_threshold_counts() -> None:
    """16 words have 12 shingles; a change of the first leaves 11 in common of 13."""
    one = [f"w{number}" for number in range(16)]
    other = ["x", *one[1:]]
    assert near_duplicates([one, other], 11 / 13) == [None, 0]
    assert near_duplicates([one, other], 11 / 13 + 1e-6) == [None, None]


def test_a_text_is_not_compared_with_one_that_went() -> None:
    """The middle one is like both others, which are not like each other: the last one stays."""
    base = [f"w{number}" for number in range(44)]
    middle, last = ["x", "y", "z", "v", *base[4:]], ["x", "y", "z", "v", *base[4:-4], "a", "b", "c", "d"]
    assert near_duplicates([base, middle, last], 0.75) == [None, 0, None]


def test_hashes_of_shingles_are_as_many_as_shingles() -> None:
    chance = random.Random(0)
    texts = [[chance.choice("ab") for _ in range(length)] for length in range(60)]
    for words, hashes in zip(texts, shingle_hashes(texts, 5), strict=True):
        assert len(hashes) == len(shingles(words))
    short = shingle_hashes([["a"], ["a", "a"], ["a", "a", "a"]], 5)
    assert len(np.unique(np.concatenate(short))) == 3


def test_many_texts_are_compared_within_seconds() -> None:
    """Twenty thousand: all pairs would be two hundred million comparisons of sets."""
    chance = random.Random(1)
    words = [f"word{number}" for number in range(3000)]
    texts = [chance.choices(words, k=60) for _ in range(20_000)]
    texts[15_000] = [*texts[3][:-1], "another"]
    found = near_duplicates(texts, 0.8)
    assert {place: other for place, other in enumerate(found) if other is not None} == {15_000: 3}


def test_words_are_lower_case_signs_count_and_unspaced_scripts_are_cut_into_characters() -> None:
    assert words_of("What IS 3+4?\n") == ["what", "is", "3", "+", "4", "?"]
    assert words_of("Été 你好 world") == ["été", "你", "好", "world"]


def test_the_repeated_share_is_that_of_runs_seen_before() -> None:
    assert repeated_share(["a", "b", "c", "d", "e", "f"]) == 0
    assert repeated_share(["a", "b", "c"]) == 0
    assert repeated_share(["a", "a", "a", "a", "a", "a"]) == pytest.approx(2 / 3)
    words = ["a", "b", "c", "d", "a", "b", "c", "d", "x"]
    runs = [tuple(words[place : place + 4]) for place in range(6)]
    seen = sum(run in runs[:place] for place, run in enumerate(runs))
    assert repeated_share(words) == pytest.approx(seen / len(runs)) == pytest.approx(1 / 6)


def test_f1_is_that_of_precision_and_recall() -> None:
    one, other = Counter(["a", "a", "b", "c"]), Counter(["a", "b", "b"])
    precision, recall = 2 / 4, 2 / 3  # one a and one b in common
    assert unigram_f1(one, other) == pytest.approx(2 * precision * recall / (precision + recall))
    assert unigram_f1(Counter(), Counter()) == 1


@pytest.mark.parametrize("seed", range(20))
def test_the_most_agreed_answer_has_the_least_expected_loss(seed: int) -> None:
    chance = random.Random(seed)
    texts = [[chance.choice("abcdefg") for _ in range(chance.randint(1, 9))] for _ in range(6)]

    def mean_f1(place: int) -> float:
        found = []
        for other in (other for number, other in enumerate(texts) if number != place):
            common = sum(min(texts[place].count(word), other.count(word)) for word in set(other))
            found.append(2 * common / (len(texts[place]) + len(other)))
        return sum(found) / len(found)

    risks = [mean_f1(place) for place in range(6)]
    assert risks[most_agreed(texts)] == pytest.approx(max(risks))


def test_of_two_answers_the_first_is_taken() -> None:
    assert most_agreed([["a"], ["b", "c"]]) == 0
    assert most_agreed([["a"]]) == 0


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (said("Five dozen jugs."), None),
        (said(" \n"), "empty"),
        (said("", "length"), "empty"),
        (said("Five dozen", "length"), "cut_off"),
        (said("Five dozen", "content_filter"), "cut_off"),
        (said("No"), "too_short"),
        (said("x" * 41), "too_long"),
        (said("x" * 40), None),
        (said("As an AI, I cannot."), "refused"),
        (said("la la la la la la la"), "repetitive"),
    ],
)
def test_what_is_wrong_with_an_answer(answer: Answer, reason: Reason | None) -> None:
    filter = Filter(min_chars=3, max_chars=40, refuse=("^As an AI", "zzz"), max_repeated=0.3)
    assert fault(answer, filter, filter.patterns()) == reason


def test_every_answer_is_kept_or_dropped_for_one_reason() -> None:
    texts = ["one two three", "four five six", "", "one two three"]
    answered = [Answered(f"Question {number}?", [said(text) for text in texts]) for number in range(3)]
    chosen = choose(answered, Filter())
    places = [(prompt, draw) for prompt, draw in chosen.kept.items()] + [
        (one.prompt, one.draw) for one in chosen.dropped
    ]
    assert sorted(places) == [(prompt, draw) for prompt in range(3) for draw in range(4)]
    assert Counter(one.reason for one in chosen.dropped) == {"empty": 3, "not_chosen": 6}
    assert chosen.kept == {0: 0, 1: 0, 2: 0}


def test_an_answer_is_chosen_among_the_good_ones_alone() -> None:
    cut = [said("a b c d", "length")] * 3
    chosen = choose([Answered("?", [*cut, said("x y"), said("a b"), said("x y z")])], Filter())
    assert chosen.kept == {0: 3}


def test_said_before_means_prompt_and_answer_together() -> None:
    long = "It jumps over the lazy dog and packs the box with five dozen liquor jugs in 1984."
    answered = [
        Answered("Who jumps?", [said(long)]),
        Answered("WHO  jumps?", [said(long.upper())]),
        Answered("Who jumps?", [said(long + " Yes")]),
        Answered("How many jugs of liquor are there in the box that was packed last year?", [said(long)]),
        Answered("What is 3 + 4?", [said("7")]),
        Answered("What is 3 - 4?", [said("7")]),
    ]
    chosen = choose(answered, Filter(near=0.8))
    assert [(one.prompt, one.reason) for one in chosen.dropped] == [(1, "duplicate"), (2, "near_duplicate")]


def test_order_decides_which_of_two_alike_stays() -> None:
    answered = [Answered("Same?", [said("yes it is so")])] * 3
    chosen = choose(answered, Filter())
    assert list(chosen.kept) == [0]
    assert all(one.prompt < other.prompt for one, other in pairwise(chosen.dropped))


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"--refuse '\('"):
        choose([], Filter(refuse=("(",)))

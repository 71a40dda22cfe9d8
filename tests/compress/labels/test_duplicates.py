"""What counts as the same text."""

from __future__ import annotations

import numpy as np

from edgepress.compress.labels.duplicates import plain_words, repetitions


def pieces(text: str) -> frozenset[str]:
    words = plain_words(text)
    return frozenset(words[at : at + 5] for at in range(max(1, len(words) - 4)))


def test_case_marks_and_spaces_make_no_other_text() -> None:
    found = repetitions(["Hot dog day!", "hot  DOG, day", "hot dog days"], 1.0)
    assert found.exact == {1}
    assert not found.near


def test_texts_without_words_are_told_apart() -> None:
    assert repetitions([":-)", ":-(", ":-)"], 0.8).exact == {2}


def test_a_word_more_in_a_long_text_makes_no_other_text() -> None:
    text = "the blues will win tomorrow at nine, I hope, against crystal palace"
    found = repetitions([text, "something else", text + " RT"], 0.8)
    assert not found.exact
    assert found.near == {2}


def test_all_pairs_that_share_enough_are_found() -> None:
    random = np.random.default_rng(0)
    texts: list[str] = []
    for _ in range(150):
        if texts and random.random() < 0.6:
            letters = list(str(random.choice(texts)))
            for _ in range(random.integers(1, 4)):
                letters[random.integers(len(letters))] = str(random.choice(list("abc ")))
            texts.append("".join(letters))
        else:
            texts.append("".join(random.choice(list("abcdef "), random.integers(12, 60))))
    for threshold in (0.3, 0.5, 0.8):
        stay: list[int] = []
        gone = set()
        for place, text in enumerate(texts):  # every pair, in file order
            shared = (len(pieces(text) & pieces(texts[o])) / len(pieces(text) | pieces(texts[o])) for o in stay)
            if any(part >= threshold for part in shared):
                gone.add(place)
            else:
                stay.append(place)
        found = repetitions(texts, threshold)
        assert found.exact | found.near == gone
        assert 10 < len(gone) < 140

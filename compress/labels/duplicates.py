"""Texts that say the same: exact repetitions, and those that share most of their pieces.

    J(A, B) = |A ∩ B| / |A ∪ B|        A, B: sets of five characters in a row, of lower-case words with a space between

Texts with J of at least t are alike, and of those the first in the file stays; they are found exactly, see
:mod:`edgepress.compress.distill.near_duplicates`, whose shingles are of characters here, since labelled texts are often
shorter than five words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from edgepress.compress.distill.near_duplicates import near_duplicates

_PIECE = 5
_WORD = re.compile(r"\w+")


class Repeated(NamedTuple):
    """Places of texts that repeat an earlier one to the letter (case, marks and spaces aside), and nearly."""

    exact: frozenset[int]
    near: frozenset[int]


def plain_words(text: str) -> str:
    """Lower-case words, a space between; what has no words at all stays as it is."""
    return " ".join(_WORD.findall(text.casefold())) or text.strip()


def repetitions(texts: Sequence[str], threshold: float) -> Repeated:
    """The texts to leave out.

    Args:
        texts: in order.
        threshold: shared part from which on two texts are one; 1 finds exact repetitions only.
    """
    plain = [plain_words(text) for text in texts]
    seen: set[str] = set()
    exact = set()
    for place, words in enumerate(plain):
        if words in seen:
            exact.add(place)
        seen.add(words)
    kept = [place for place in range(len(texts)) if place not in exact]
    alike = near_duplicates([plain[place] for place in kept], threshold, _PIECE) if threshold < 1 else []
    return Repeated(frozenset(exact), frozenset(kept[at] for at, first in enumerate(alike) if first is not None))

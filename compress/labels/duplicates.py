"""Texts that say the same: exact repetitions, and those that share most of their pieces.

    J(A, B) = |A ∩ B| / |A ∪ B|        A, B: sets of five characters in a row, of lower-case words with a space between

Pairs with J of at least t are found without looking at all pairs, and none is missed (prefix filtering, Chaudhuri et
al., ICDE 2006, and Bayardo et al., WWW 2007): with pieces sorted from rare to common, two such sets share one of their
first |A| - ⌈t |A|⌉ + 1 pieces. Of alike texts the first in the file stays.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

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
    near = _near([plain[place] for place in kept], threshold) if threshold < 1 else set()
    return Repeated(frozenset(exact), frozenset(kept[at] for at in near))


def _near(texts: list[str], threshold: float) -> set[int]:
    sets = [_pieces(text) for text in texts]
    common = Counter(piece for each in sets for piece in each)
    holders: dict[str, list[int]] = defaultdict(list)
    found: set[int] = set()
    for place, each in enumerate(sets):
        ordered = sorted(each, key=lambda piece: (common[piece], piece))
        first = ordered[: len(each) - math.ceil(threshold * len(each)) + 1]
        candidates = {other for piece in first for other in holders[piece]}
        if any(shared_part(each, sets[other]) >= threshold for other in candidates):
            found.add(place)
            continue
        for piece in first:
            holders[piece].append(place)
    return found


def _pieces(text: str) -> frozenset[str]:
    return frozenset(text[at : at + _PIECE] for at in range(max(1, len(text) - _PIECE + 1)))


def shared_part(one: frozenset[str], other: frozenset[str]) -> float:
    """Size of the intersection over that of the union."""
    both = len(one & other)
    return both / (len(one) + len(other) - both)

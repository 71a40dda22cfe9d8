"""Texts that say nearly the same as one before them.

Idea: a text is the set S of its shingles, runs of five words, and two texts are alike when

    J(x, y) = |S_x ∩ S_y| / |S_x ∪ S_y| ≥ t.

Texts are taken in order, and one that is like an earlier one that stays does not stay. The comparison is exact, without
MinHash, and still not of all pairs: with shingles in one order, rarest first, J ≥ t needs a common one among the first
|S| - ⌈t |S|⌉ + 1 of either text (prefix filtering), and sizes within a factor of t. Most of those shingles occur in no
other text, and are never looked up.

Sources: shingles are Broder's (1997, "On the resemblance and containment of documents"); prefix filtering is that of
Bayardo et al. (2007, "Scaling up all pairs similarity search"). Shingles are compared by 64-bit hashes of their words'
numbers: among ten million of them two different ones share one with a chance of 3 in a million.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray

SHINGLE_WORDS = 5
Hashes = NDArray[np.uint64]
_SLACK = 1e-9  # t · n is compared with whole numbers, which it may miss by a rounding


def near_duplicates(texts: Sequence[Sequence[str]], threshold: float, size: int = SHINGLE_WORDS) -> list[int | None]:
    """For each text the first of those before it that stay and are like it; None where it stays.

    Args:
        texts: each its words.
        threshold: t, above 0 and at most 1.
        size: words of a shingle; a shorter text is one.
    """
    sets = _by_rarity(shingle_hashes(texts, size))
    seen: dict[int, list[int]] = defaultdict(list)
    found: list[int | None] = []
    for number, (hashes, rare) in enumerate(sets):
        prefix = hashes[: len(hashes) - ceil(threshold * len(hashes) - _SLACK) + 1][rare:].tolist()
        candidates = sorted({other for value in prefix for other in seen.get(value, ())})
        found.append(_first_alike(hashes, ((other, sets[other][0]) for other in candidates), threshold))
        if found[-1] is None:
            for value in prefix:
                seen[value].append(number)
    return found


def _first_alike(hashes: Hashes, candidates: Iterable[tuple[int, Hashes]], threshold: float) -> int | None:
    own = set(hashes.tolist())
    for number, others in candidates:
        if threshold * max(len(own), len(others)) <= min(len(own), len(others)) + _SLACK:
            common = len(own.intersection(others.tolist()))
            if common >= threshold * (len(own) + len(others) - common) - _SLACK:
                return number
    return None


def shingle_hashes(texts: Sequence[Sequence[str]], size: int) -> list[Hashes]:
    """The distinct shingles of each text, as hashes."""
    numbers: dict[str, int] = {}
    return [
        np.unique(_hashed(np.array([numbers.setdefault(word, len(numbers) + 1) for word in words], np.uint64), size))
        for words in texts
    ]


def _hashed(words: Hashes, size: int) -> Hashes:
    """Hashes of all runs of ``size`` words, or of the whole where it is shorter; none of no words."""
    size = min(size, len(words))
    runs = len(words) - size + 1 if size else 0
    value = np.zeros(runs, np.uint64)
    for place in range(size):
        value = _mixed(value ^ words[place : place + runs])
    return value


def _mixed(value: Hashes) -> Hashes:
    """A bijection of 64-bit numbers in which every bit depends on every other (the finaliser of splitmix64)."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _by_rarity(sets: list[Hashes]) -> list[tuple[Hashes, int]]:
    """Each set, shingles of the fewest texts first, and how many of them are in no other text."""
    if not sets:
        return []
    values, counts = np.unique(np.concatenate(sets), return_counts=True)
    ordered = []
    for hashes in sets:
        count = counts[np.searchsorted(values, hashes)]
        ordered.append((hashes[np.lexsort((hashes, count))], int((count == 1).sum())))
    return ordered

"""The answer that the others agree with most, of several to one prompt: minimum Bayes risk.

    i* = argmax_i Σ_{j ≠ i} F1(y_i, y_j)        F1 = 2 |y_i ∩ y_j| / (|y_i| + |y_j|), of the words as multisets

The samples stand for the teacher's distribution, and the answer of the greatest expected likeness to what the teacher
says is taken, which a single greedy answer need not be. Source: Eikema and Aziz (arXiv 2005.10283), with their
unigram F1 as the utility. Of equal ones it is the first; of two answers therefore always.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def unigram_f1(one: Counter[str], other: Counter[str]) -> float:
    """Likeness of two bags of words, from 0 to 1; of two empty ones 1."""
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 1.0


def most_agreed(texts: Sequence[Sequence[str]]) -> int:
    """The place of the text that is most like the others on average.

    Args:
        texts: each its words; at least one.
    """
    bags = [Counter(words) for words in texts]
    likeness = [sum(unigram_f1(bag, other) for other in bags) for bag in bags]  # with itself 1 for each alike
    return likeness.index(max(likeness))

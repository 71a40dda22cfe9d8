"""Calibration text must not be evaluation text: a model measured on what it was fitted to looks better than it is.

Two texts overlap when they share a run of 13 words, the length that Brown et al. (arXiv 2005.14165, appendix C) use to
find test data in training data. Case, punctuation and WikiText's ``<unk>`` are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from edgepress.errors import InputError

NGRAM_WORDS = 13


def shared_ngrams(one: str, other: str, size: int = NGRAM_WORDS) -> list[str]:
    """Runs of ``size`` words that occur in both texts, sorted."""
    return sorted(_ngrams(one, size) & _ngrams(other, size))


def refuse_overlap(calibration: Iterable[str], evaluation: Iterable[str], remedy: str) -> None:
    """Refuse texts that share a run of words.

    Args:
        calibration: texts that the model was, or will be, calibrated on.
        evaluation: texts that it is to be measured on.
        remedy: what else could be done than taking other text.

    Raises:
        InputError: says how many runs there are and shows one.
    """
    shared = shared_ngrams("\n".join(calibration), "\n".join(evaluation))
    if shared:
        raise InputError(
            f"calibration and evaluation text share {len(shared)} runs of {NGRAM_WORDS} words, such as {shared[0]!r}; "
            f"take other text, or {remedy}"
        )


def _ngrams(text: str, size: int) -> set[str]:
    words = [word for word in re.findall(r"\w+", text.lower()) if word != "unk"]
    return {" ".join(words[start : start + size]) for start in range(len(words) - size + 1)}

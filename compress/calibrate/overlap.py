"""Calibration text must not be evaluation text: a model measured on what it was fitted to looks better than it is.

Two texts overlap when they share a run of 13 words, the length that Brown et al. (arXiv 2005.14165, appendix C) use to
find test data in training data. Case, punctuation and WikiText's ``<unk>`` are ignored. In scripts that put no spaces
between words (Chinese, Japanese, Thai, Lao, Burmese, Khmer) two characters count as a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar

from edgepress.errors import InputError

_Sequence = TypeVar("_Sequence", str, list[str])
NGRAM_WORDS = 13
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"


def shared_ngrams(one: str, other: str, size: int = NGRAM_WORDS) -> list[str]:
    """Runs of ``size`` words that occur in both texts, sorted."""
    return sorted(_ngrams(one, size) & _ngrams(other, size))


def refuse_overlap(
    calibration: Iterable[str], evaluation: Iterable[str], remedy: str, what: str = "calibration and evaluation text"
) -> None:
    """Refuse texts that share a run of words.

    Args:
        calibration: texts that the model was, or will be, calibrated on.
        evaluation: texts that it is to be measured on.
        remedy: what else could be done than taking other text.
        what: they are, for the message.

    Raises:
        InputError: says how many runs there are and shows one.
    """
    shared = shared_ngrams("\n".join(calibration), "\n".join(evaluation))
    if shared:
        raise InputError(
            f"{what} share {len(shared)} runs of {NGRAM_WORDS} words, such as {shared[0]!r}; "
            f"take other text, or {remedy}"
        )


def _ngrams(text: str, size: int) -> set[str]:
    words = [word for word in re.findall(rf"[^\W{UNSPACED}]+", text.lower()) if word != "unk"]
    signs = "".join(re.findall(rf"[{UNSPACED}]", text))
    return {" ".join(part) for part in _runs(words, size)} | set(_runs(signs, 2 * size))


def _runs(sequence: _Sequence, size: int) -> list[_Sequence]:
    return [sequence[start : start + size] for start in range(len(sequence) - size + 1)]

"""Words of a text, for comparing texts: in lower case, signs as words of their own, and each character of a script that
puts no spaces between words.
"""

from __future__ import annotations

import re

from edgepress.compress.calibrate.overlap import UNSPACED

_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]")


def words_of(text: str) -> list[str]:
    """The words in order."""
    return _WORD.findall(text.casefold())


def repeated_share(words: list[str], size: int = 4) -> float:
    """Share of the runs of ``size`` words that the text has had before: 1 - distinct runs / runs; 0 without any.

    Welleck et al. (arXiv 1908.04319) call it seq-rep-n.
    """
    runs = [tuple(words[place : place + size]) for place in range(len(words) - size + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0

"""How diverse answers are: a student that deceives its discriminator with one phrase repeats it.

    distinct-n    different runs of n tokens / all runs of n tokens, over all answers together (arXiv 1510.03055)
    self-BLEU     mean BLEU of each answer against the others to its prompt (arXiv 1802.01886); 1 where all are alike

BLEU is the geometric mean of clipped precisions of runs of 1 to 4 tokens, from 2 on with one added to both counts,
times the brevity penalty. All on token ids.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

Answer = Sequence[int]
Run = tuple[int, ...]

_LONGEST_RUN = 4


def distinct_n(answers: Sequence[Answer], n: int) -> float:
    """Share of different ones among all runs of ``n`` tokens, 0 to 1; 0 where there are none."""
    runs = [run for answer in answers for run in _runs(answer, n)]
    return len(set(runs)) / len(runs) if runs else 0.0


def self_bleu(groups: Sequence[Sequence[Answer]]) -> float:
    """Mean over all answers of the BLEU against the others of their group, 0 to 1.

    Args:
        groups: answers to one prompt each, at least two.
    """
    found = [
        bleu(answer, [other for at, other in enumerate(group) if at != place])
        for group in groups
        for place, answer in enumerate(group)
    ]
    return sum(found) / len(found)


def bleu(answer: Answer, references: Sequence[Answer]) -> float:
    """BLEU of an answer against several, 0 to 1."""
    if not answer:
        return 0.0
    logs = 0.0
    orders = range(1, min(_LONGEST_RUN, len(answer)) + 1)
    for n in orders:
        matched, total = _matches(answer, references, n)
        added = int(n > 1)
        if matched + added == 0:
            return 0.0
        logs += math.log((matched + added) / (total + added))
    closest = min((abs(len(other) - len(answer)), len(other)) for other in references)[1]
    return min(1.0, math.exp(1 - closest / len(answer))) * math.exp(logs / len(orders))


def _matches(answer: Answer, references: Sequence[Answer], n: int) -> tuple[int, int]:
    """Runs that a reference has as well, each as often as one of them has it; and all runs."""
    ours = Counter(_runs(answer, n))
    most: Counter[Run] = Counter()
    for other in references:
        most |= Counter(_runs(other, n))
    return sum((ours & most).values()), sum(ours.values())


def _runs(answer: Answer, n: int) -> list[Run]:
    return [tuple(answer[start : start + n]) for start in range(len(answer) - n + 1)]

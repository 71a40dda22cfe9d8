"""Which of a teacher's answers a student is trained on.

Idea: for a teacher that gives text and no distributions, sequence-level distillation trains on what it writes, as if
its distribution over answers were all on its best one:

    L = -Σ_y 1[y = ŷ(x)] log q(y | x) = -log q(ŷ(x) | x)

Source: Kim and Rush, "Sequence-level knowledge distillation" (arXiv 1606.07947). We depart in what ŷ is: they take the
best of a beam search, we the greedy answer, or of several sampled ones the one that the others agree with most
(:mod:`~edgepress.compress.distill.consensus`), since an endpoint has no beams.

An answer is dropped for the first of these that holds: it is empty; it did not end by itself; it is too short, too
long, of a kind that is refused, or repeats itself. Of the rest one a prompt is taken, and of those in turn none that
says, prompt and answer together, what one before it says, or nearly so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec

from edgepress.compress.bounds import Count, Share
from edgepress.compress.distill.consensus import most_agreed
from edgepress.compress.distill.near_duplicates import near_duplicates
from edgepress.compress.distill.words import repeated_share, words_of
from edgepress.errors import InputError
from edgepress.runtime.answering import ENDED, Answer

Reason = Literal[
    "empty", "cut_off", "too_short", "too_long", "refused", "repetitive", "not_chosen", "duplicate", "near_duplicate"
]


class Filter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is dropped.

    min_chars, max_chars   bounds of an answer, both included; no upper one where that is None
    refuse                 regular expressions that no answer may contain
    max_repeated           largest share of repeated runs of four words
    near                   likeness to an earlier one, of runs of five words, from which on an answer is dropped
    """

    min_chars: Count = 1
    max_chars: Count | None = None
    refuse: tuple[str, ...] = ()
    max_repeated: Share = 0.3
    near: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.8

    def patterns(self) -> tuple[re.Pattern[str], ...]:
        """The regular expressions.

        Raises:
            InputError: one is none.
        """
        try:
            return tuple(re.compile(pattern) for pattern in self.refuse)
        except re.error as error:
            raise InputError(f"--refuse {error.pattern!r}: no regular expression ({error})") from error


class Answered(NamedTuple):
    """The words that were asked, without what a system message says, and the answers to them."""

    asked: str
    answers: Sequence[Answer]


class Dropped(NamedTuple):
    """An answer that is not trained on: of which prompt, which of its answers, and why."""

    prompt: int
    draw: int
    reason: Reason


class Chosen(NamedTuple):
    """The place of the answer that is kept, by the place of its prompt; and all others."""

    kept: dict[int, int]
    dropped: list[Dropped]


def choose(answered: Sequence[Answered], filter: Filter) -> Chosen:
    """One answer a prompt or none, and why each of the others is dropped.

    Raises:
        InputError: a pattern is no regular expression.
    """
    patterns = filter.patterns()
    kept: dict[int, int] = {}
    dropped: list[Dropped] = []
    for prompt, (_, answers) in enumerate(answered):
        faults = [fault(answer, filter, patterns) for answer in answers]
        good = [draw for draw, reason in enumerate(faults) if reason is None]
        dropped += [Dropped(prompt, draw, reason) for draw, reason in enumerate(faults) if reason is not None]
        if good:
            kept[prompt] = good[most_agreed([words_of(answers[draw].text) for draw in good])]
            dropped += [Dropped(prompt, draw, "not_chosen") for draw in good if draw != kept[prompt]]
    for prompt, reason in _said_before(answered, kept, filter.near).items():
        dropped.append(Dropped(prompt, kept.pop(prompt), reason))
    return Chosen(kept, sorted(dropped))


def fault(answer: Answer, filter: Filter, patterns: Sequence[re.Pattern[str]]) -> Reason | None:
    """What is wrong with an answer in itself, if anything."""
    text = answer.text.strip()
    checks: tuple[tuple[Reason, bool], ...] = (
        ("empty", not text),
        ("cut_off", answer.finish != ENDED),
        ("too_short", len(text) < filter.min_chars),
        ("too_long", filter.max_chars is not None and len(text) > filter.max_chars),
        ("refused", any(pattern.search(text) for pattern in patterns)),
        ("repetitive", repeated_share(words_of(text)) > filter.max_repeated),
    )
    return next((reason for reason, holds in checks if holds), None)


def _said_before(answered: Sequence[Answered], kept: dict[int, int], near: float) -> dict[int, Reason]:
    """Prompts whose answers say what an earlier one does."""
    places = list(kept)
    texts = [words_of(f"{answered[place].asked}\n{answered[place].answers[kept[place]].text}") for place in places]
    found: dict[int, Reason] = {}
    for place, words, first in zip(places, texts, near_duplicates(texts, near), strict=True):
        if first is not None:
            found[place] = "duplicate" if words == texts[first] else "near_duplicate"
    return found

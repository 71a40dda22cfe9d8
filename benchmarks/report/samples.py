"""Answers side by side, with the place where each leaves the student's.

Greedy decoding seldom comes back to the same text once a token differs, so that the length of what differs measures
nothing: one changed token costs as much as many. The page marks the place and says so.
"""

from __future__ import annotations

import re

import msgspec

from edgepress.benchmarks.report.artifacts import STUDENT, title_of
from edgepress.benchmarks.report.contents import Sample, Samples

_LAST_WORD = re.compile(r"\w+\Z")


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """``same`` is what an answer shares with the student's from the start, ``other`` the rest; ``note`` says so."""

    title: str
    same: str
    other: str
    note: str


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt with its answers, the student's first."""

    prompt: str
    answers: tuple[Answer, ...]


def side_by_side(samples: Samples, order: tuple[str, ...]) -> tuple[Prompt, ...]:
    """Answers in the order of ``order``, labels it lacks behind them."""
    return tuple(Prompt(prompt=sample.prompt, answers=_answers(sample, order)) for sample in samples.samples)


def _answers(sample: Sample, order: tuple[str, ...]) -> tuple[Answer, ...]:
    wanted = (STUDENT, *order, *sorted(sample.answers))
    labels = [label for label in dict.fromkeys(wanted) if label in sample.answers]
    return tuple(_answer(label, sample.answers[label], sample.answers.get(STUDENT)) for label in labels)


def _answer(label: str, text: str, student: str | None) -> Answer:
    if label == STUDENT or student is None:
        return Answer(title=title_of(label), same=text, other="", note="the reference" if label == STUDENT else "")
    same = common_start(text, student)
    if text == student:
        note = "identical"
    elif not same:
        note = "differs from the first word"
    else:
        note = _words(len(same.split()))
    return Answer(title=title_of(label), same=same, other=text[len(same) :], note=note)


def _words(count: int) -> str:
    return f"the same for {count} word{'s' * (count != 1)}"


def common_start(text: str, student: str) -> str:
    """The common beginning of two texts, back to the last whole word where they part inside one."""
    parting = (place for place, (mine, theirs) in enumerate(zip(text, student, strict=False)) if mine != theirs)
    same = text[: next(parting, min(len(text), len(student)))]
    inside = any(full[len(same) : len(same) + 1].isalnum() for full in (text, student))
    return _LAST_WORD.sub("", same) if inside else same

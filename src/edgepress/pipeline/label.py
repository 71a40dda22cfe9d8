"""``edgepress label``: texts without labels, a teacher and a task become texts with probabilities of labels.

Repetitions go before the teacher reads anything, then what is not sure, then what a label has too much of. Gold texts
are scored by the same teacher with the same lean, for the reports; they take no part in anything else, and a text to
label that is one of them is left out.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.files import write_atomically
from edgepress.benchmarks.classification import Scores, score_probabilities
from edgepress.benchmarks.label_record import GOLD_SUFFIX, LABEL_RECORD_SUFFIX, Cost, Dropped, LabelRecord
from edgepress.compress.labels.calibrate import lean_to_prior, mean_lean, probabilities
from edgepress.compress.labels.choose import capped, sure
from edgepress.compress.labels.duplicates import plain_words, repetitions
from edgepress.compress.labels.score import label_scores
from edgepress.compress.labels.task import Calibration, Prompts, Task, write_prompts
from edgepress.compress.labels.texts import Labelled, read_labelled, read_texts
from edgepress.errors import InputError
from edgepress.pipeline.label_scores import Scored, Teacher, Took, score_texts
from edgepress.progress import say
from edgepress.runtime.text import TextCodec

Array = NDArray[np.float64]
_DIGITS = 6
_WAYS: tuple[Calibration, ...] = ("none", "contextual", "batch", "prior")


@dataclass(frozen=True)
class _Asked:
    """Scores of labels, in nats, (texts, labels): of the texts, of content-free ones, and of gold ones, if any."""

    texts: Array
    content_free: Array
    gold: Array
    took: Took


def label(texts: Path, teacher: Teacher, task: Task, gold: Path | None, out: Path) -> LabelRecord:
    """Label the texts of a file, and write ``out`` and its record; goes on where a killed run left off.

    Args:
        texts: a text a line, or JSONL of {text}.
        teacher: who labels.
        task: the labels, how to ask, what to keep.
        gold: JSONL of {text, label} to judge the teacher by.
        out: JSONL of {text, label, probabilities}.

    Raises:
        InputError: a file cannot be read, the task does not fit the teacher, or no text is kept.
    """
    if out.is_dir():
        raise InputError(f"{out}: a directory; name the file to write, such as labels.jsonl")
    _spare(out, texts, gold)
    read = read_texts(texts)
    judged = read_labelled(gold, task.names) if gold else None
    codec = TextCodec(teacher.student.tokenizer_dir)
    left, dropped = _worth_asking(read, judged, task)
    left, too_long = _short_enough(left, judged, task, codec, teacher)
    asked = _ask(teacher, task, codec, left, judged)
    leans = {way: _lean(way, asked, task) for way in _WAYS}
    lean = leans[task.calibration]
    found = probabilities(asked.texts, lean)
    confident = sure(found, margin=task.margin, keep=task.keep)
    kept = capped(found, confident, task.per_class)
    dropped = msgspec.structs.replace(
        dropped, too_long=too_long, unsure=int((~confident).sum()), over_the_cap=int((confident & ~kept).sum())
    )
    record = LabelRecord(
        teacher=teacher.student.name,
        teacher_source=teacher.student.source,
        teacher_digest=teacher.digest,
        task=msgspec.to_builtins(task),
        texts=str(texts),
        read=len(read),
        dropped=dropped,
        kept=_counts(task, found, kept),
        lean={name: float(value) for name, value in zip(task.names, lean, strict=True)},
        gold=_judge(judged, asked, leans),
        cost=_cost(teacher, asked.took),
    )
    if judged:
        write_atomically(out.with_suffix(GOLD_SUFFIX), _gold_lines(task, judged, asked, lean))
    write_atomically(out.with_suffix(LABEL_RECORD_SUFFIX), _json(record))
    write_atomically(out, "".join(_line(task, left[place], found[place]) for place in np.flatnonzero(kept)))
    return record


def _spare(out: Path, texts: Path, gold: Path | None) -> None:
    """Refuse to write over what is read, or over a file that is no earlier labelling."""
    record = out.with_suffix(LABEL_RECORD_SUFFIX)
    written = {path.resolve() for path in (out, record, out.with_suffix(GOLD_SUFFIX))}
    for name, path in (("the texts", texts), ("--gold", gold)):
        if path is not None and path.resolve() in written:
            raise InputError(f"{path}: {name}, which -o {out} would write over; take another -o")
    if out.exists() and not record.is_file():
        raise InputError(f"{out}: exists and is no earlier labelling; take another -o")


def _worth_asking(read: tuple[str, ...], judged: Labelled | None, task: Task) -> tuple[tuple[str, ...], Dropped]:
    """The texts that are there, once, and not among the gold ones."""
    texts = tuple(text for text in read if text)
    gold = {plain_words(text) for text in judged.texts} if judged else set()
    fresh = tuple(text for text in texts if plain_words(text) not in gold)
    repeated = repetitions(fresh, task.near_duplicates)
    out = repeated.exact | repeated.near
    dropped = Dropped(
        empty=len(read) - len(texts),
        in_gold=len(texts) - len(fresh),
        repeated=len(repeated.exact),
        nearly_repeated=len(repeated.near),
        too_long=0,
        unsure=0,
        over_the_cap=0,
    )
    return tuple(text for place, text in enumerate(fresh) if place not in out), dropped


def _short_enough(
    texts: tuple[str, ...], judged: Labelled | None, task: Task, codec: TextCodec, teacher: Teacher
) -> tuple[tuple[str, ...], int]:
    """Texts whose prompts and verbalizers the teacher can read, and how many it cannot."""
    if not texts:
        raise InputError("no text left to label: all are empty, repeated or among the gold ones")
    limit = teacher.student.spec.context
    asked = write_prompts(task, codec, (*texts, *(judged.texts if judged else ())))
    longest = max(map(len, asked.verbalizers))
    fits = [len(prompt) + longest <= limit for prompt in asked.prompts]
    if not all(fits[len(texts) :]):
        raise InputError(f"a gold text with its prompt is longer than the teacher's {limit} tokens; leave it out")
    left = tuple(text for text, short in zip(texts, fits, strict=False) if short)
    if not left:
        raise InputError(f"all texts with their prompts are longer than the teacher's {limit} tokens; cut them")
    return left, len(texts) - len(left)


def _ask(teacher: Teacher, task: Task, codec: TextCodec, texts: tuple[str, ...], judged: Labelled | None) -> _Asked:
    gold = judged.texts if judged else ()
    everything = (*texts, *task.content_free, *gold)
    asked: Prompts = write_prompts(task, codec, everything)
    say(f"label: {len(texts):,} texts, {len(gold):,} gold ones; {asked.shared} tokens begin every prompt")
    scored: Scored = score_texts(teacher, asked)
    scores = label_scores(scored.scores, task.label_of, task.verbalizers)
    first, second = len(texts), len(texts) + len(task.content_free)
    return _Asked(scores[:first], scores[first:second], scores[second:], scored.took)


def _lean(way: Calibration, asked: _Asked, task: Task) -> Array:
    if way == "contextual" and len(asked.content_free):
        return mean_lean(asked.content_free)
    if way == "batch":
        return mean_lean(asked.texts)
    if way == "prior":
        shares = np.array([task.prior.get(name, 1.0) for name in task.names])
        return lean_to_prior(asked.texts, shares / shares.sum())
    return np.zeros(len(task.names))


def _counts(task: Task, found: Array, kept: NDArray[np.bool_]) -> dict[str, int]:
    """Texts that are kept, by label.

    Raises:
        InputError: there is none.
    """
    told = found.argmax(axis=1)
    all_told, left = (np.bincount(part, minlength=len(task.names)) for part in (told, told[kept]))
    before = ", ".join(f"{name} {number}" for name, number in zip(task.names, all_told, strict=True))
    if not left.any():
        raise InputError(f"no text is kept (before filters: {before}); lower margin, raise keep or per_class")
    counts = {name: int(number) for name, number in zip(task.names, left, strict=True)}
    for name in (name for name, number in counts.items() if not number):
        say(f"note: no text with label {name!r} (before filters: {before}); try calibration: prior")
    return counts


def _judge(judged: Labelled | None, asked: _Asked, leans: dict[Calibration, Array]) -> dict[str, Scores]:
    if judged is None:
        return {}
    return {way: score_probabilities(probabilities(asked.gold, lean), judged.labels) for way, lean in leans.items()}


def _cost(teacher: Teacher, took: Took) -> Cost:
    import torch

    model, student = teacher.model, teacher.student
    return Cost(
        engine=model.engine if model else "torch",
        ms_per_text=1000 * statistics.median(took.seconds),
        timed_texts=len(took.seconds),
        parameters=student.parameters,
        weight_bytes=model.file_bytes if model else student.weight_bytes,
        peak_rss_bytes=took.peak_rss_bytes,
        threads=torch.get_num_threads(),
    )


def _line(task: Task, text: str, found: Array, **more: object) -> str:
    told = {"text": text, "label": task.names[int(found.argmax())], "probabilities": _named(task, found)}
    return json.dumps(told | more, ensure_ascii=False) + "\n"


def _gold_lines(task: Task, judged: Labelled, asked: _Asked, lean: Array) -> str:
    calibrated, plain = probabilities(asked.gold, lean), probabilities(asked.gold)
    lines = []
    for place, text in enumerate(judged.texts):
        own = {"label": judged.names[judged.labels[place]], "uncalibrated": _named(task, plain[place])}
        lines.append(_line(task, text, calibrated[place], **own))
    return "".join(lines)


def _named(task: Task, found: Array) -> dict[str, float]:
    return {name: round(float(value), _DIGITS) for name, value in zip(task.names, found, strict=True)}


def _json(document: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"

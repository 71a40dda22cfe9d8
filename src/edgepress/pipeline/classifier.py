"""``edgepress classifier``: labelled texts and a student become a small classifier, a Hugging Face directory.

The files take their places when the training is done, ``config.json`` after the weights; until then the output
directory holds the state of the training alone, out of sight. The cost of one text is measured at the end and lies
apart from the record, which is the same however often the run was killed.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.files import sha256_file, write_atomically
from edgepress.benchmarks.classification import Scores, mean_and_error, score_labels, score_probabilities
from edgepress.benchmarks.label_record import (
    COST_FILE,
    LABEL_RECORD_SUFFIX,
    Check,
    ClassifierRecord,
    Cost,
    CostRecord,
    LabelRecord,
)
from edgepress.benchmarks.process_memory import read_status
from edgepress.benchmarks.report.classifier import write_classifier_report
from edgepress.compress.classify.config import ClassifierSettings
from edgepress.compress.classify.head import RIDGES, Head, divergence, fit_head, standard
from edgepress.compress.labels.calibrate import probabilities
from edgepress.compress.labels.duplicates import plain_words
from edgepress.compress.labels.texts import Labelled, read_labelled
from edgepress.compress.openmp import brief_waits
from edgepress.errors import InputError, require
from edgepress.pipeline.classifier_files import finished, tidy, write_classifier
from edgepress.pipeline.stages import Output, stage_key
from edgepress.progress import say
from edgepress.runtime.environment import read_machine

Array = NDArray[np.float64]
_VERSION = 1
_TIMED_TEXTS, _WARM_UP = 64, 5


class _Data(NamedTuple):
    """Texts to train on, held-out ones, gold ones, and how many were left out because they are gold."""

    train: Labelled
    held_out: Labelled
    gold: Labelled | None
    in_gold: int


class _Trained(NamedTuple):
    ridge: float
    losses: tuple[float, ...]
    checks: tuple[Check, ...]
    seconds: float


def train_classifier(
    student: str, text: Path, gold: Path | None, settings: ClassifierSettings, out: Path
) -> ClassifierRecord:
    """Train a classifier and write it to ``out``; goes on where a killed run left off.

    Args:
        student: a Hugging Face directory of an encoder, or a decoder named like any STUDENT.
        text: JSONL of {text, label, probabilities}; without probabilities the labels are learned as they are.
        gold: JSONL of {text, label} to judge by; with the teacher's answers, where ``edgepress label`` wrote it.
        settings: how.
        out: output directory.

    Raises:
        InputError: a file or the student cannot be worked with, or ``out`` is another's.
        MissingExtraError: what draws the report is not installed.
        EdgepressError: the training diverged.
    """
    for drawn_by in ("jinja2", "plotly"):  # refused now and not after the training
        require(drawn_by, "report")
    data = _data(text, gold, settings)
    with brief_waits():
        from edgepress.compress.classify.student import encode_texts, logits_of, open_classifier

        opened = open_classifier(student, data.train.names, settings.seed)
        tokens = {part: encode_texts(opened, texts, settings.length) for part, texts in _texts(data).items()}
        key = _key(opened.digest, text, gold, settings)
        output = Output(out)
        with output.claim():
            if done := finished(out, key):
                say("classifier: up to date")
                tidy(out)
                write_classifier_report(out)
                return done
            say(f"classifier: {len(data.train.texts):,} texts to train on, {len(data.held_out.texts):,} held out")
            trained = _train(opened, tokens, data, settings, output.training(key))
            logits = {part: logits_of(opened, each) for part, each in tokens.items() if part != "train"}
            record = _record(student, opened, text, gold, key, data, settings, trained, logits)
            timed = (tokens.get("gold") or tokens["held_out"])[: _TIMED_TEXTS + _WARM_UP]
            write_classifier(opened, key, out, record)
            cost = _cost(opened, timed, out, text, trained.seconds)
            write_atomically(out / COST_FILE, msgspec.json.format(msgspec.json.encode(cost), indent=2))
            tidy(out)
            write_classifier_report(out)
    return record


def _data(text: Path, gold: Path | None, settings: ClassifierSettings) -> _Data:
    labelled = read_labelled(text)
    judged = read_labelled(gold, labelled.names) if gold else None
    known = {plain_words(each) for each in judged.texts} if judged else set()
    fresh = labelled[np.array([plain_words(each) not in known for each in labelled.texts])]
    count = len(fresh.texts)
    apart = max(1, round(settings.held_out * count))
    if count < 2 * len(labelled.names) or apart >= count:
        raise InputError(f"{text}: {count} texts that are not gold ones; give more")
    drawn = np.zeros(count, np.bool_)
    drawn[np.random.default_rng((settings.seed, 0)).permutation(count)[:apart]] = True
    return _Data(fresh[~drawn], fresh[drawn], judged, len(labelled.texts) - count)


def _texts(data: _Data) -> dict[str, tuple[str, ...]]:
    found = {"train": data.train.texts, "held_out": data.held_out.texts}
    return found | ({"gold": data.gold.texts} if data.gold else {})


def _targets(labelled: Labelled, settings: ClassifierSettings) -> Array:
    soft = labelled.probabilities if settings.targets == "soft" else None
    return labelled.hard if soft is None else soft


def _train(opened: Any, tokens: dict[str, Any], data: _Data, settings: ClassifierSettings, state: Path) -> _Trained:
    """The head, and then all weights where asked for."""
    from edgepress.compress.classify.fine_tune import FineTuning
    from edgepress.compress.classify.student import logits_of
    from edgepress.compress.distill.trainer_state import TrainerState

    started = time.monotonic()
    targets, judged = _targets(data.train, settings), _targets(data.held_out, settings)
    untrained = divergence(np.zeros(judged.shape), judged)
    ridge, found = _solve_head(opened, tokens, targets, judged, settings)
    if settings.mode == "head":
        checks = (Check(0, untrained), Check(len(data.train.texts), found))
        return _Trained(ridge, (), checks, time.monotonic() - started)
    solved = time.monotonic() - started
    training = FineTuning(opened, tokens["train"], targets, settings)
    run = training.train(TrainerState(state), lambda: divergence(logits_of(opened, tokens["held_out"]), judged))
    checks = tuple(Check(check.tokens, check.held_out_kl) for check in run.checks)
    return _Trained(ridge, run.losses, checks, solved + run.seconds)


def _solve_head(
    opened: Any, tokens: dict[str, Any], targets: Array, judged: Array, settings: ClassifierSettings
) -> tuple[float, float]:
    """Put the best head on the student; its ridge and its held-out divergence."""
    from edgepress.compress.classify.student import features_of

    features, others = features_of(opened, tokens["train"]), features_of(opened, tokens["held_out"])
    bias = opened.linear.bias is not None
    scale = standard(features, centred=bias)
    tried: list[tuple[float, float, Head]] = []
    for ridge in RIDGES if settings.ridge is None else (settings.ridge,):
        head = scale.undo(fit_head(scale.apply(features), targets, ridge, bias=bias))
        tried.append((divergence(head.logits(others), judged), ridge, head))
    found, ridge, head = min(tried, key=lambda each: each[0])
    say(f"head: ridge {ridge:g}, held-out divergence {found:.4f}")
    opened.set_head(head.weight, head.bias)
    return ridge, found


def _record(
    student: str,
    opened: Any,
    text: Path,
    gold: Path | None,
    key: str,
    data: _Data,
    settings: ClassifierSettings,
    trained: _Trained,
    logits: dict[str, Array],
) -> ClassifierRecord:
    agreed = mean_and_error(logits["held_out"].argmax(axis=1) == data.held_out.labels)
    scores, apart = _judge(data.gold, logits)
    teacher = _label_record(text)
    return ClassifierRecord(
        student=student,
        architecture=type(opened.model).__name__,
        start=opened.begun,
        labels=data.train.names,
        settings=msgspec.to_builtins(settings),
        files=(str(text), *([str(gold)] if gold else [])),
        digest=key,
        trained_on=len(data.train.texts),
        held_out=len(data.held_out.texts),
        in_gold=data.in_gold,
        agreement=agreed.mean,
        agreement_se=agreed.se,
        ridge=trained.ridge,
        losses=trained.losses,
        checks=trained.checks,
        gold=scores,
        apart=apart,
        teacher=teacher.teacher if teacher else None,
    )


def _judge(gold: Labelled | None, logits: dict[str, Array]) -> tuple[dict[str, Scores], tuple[float, float] | None]:
    if gold is None:
        return {}, None
    labels = len(gold.names)
    commonest = np.full(len(gold.texts), np.bincount(gold.labels, minlength=labels).argmax())
    found = {"majority": score_labels(commonest, gold.labels, labels)}
    if gold.uncalibrated is not None:
        found["uncalibrated"] = score_probabilities(gold.uncalibrated, gold.labels)
    if gold.probabilities is not None:
        found["teacher"] = score_probabilities(gold.probabilities, gold.labels)
    ours = probabilities(logits["gold"])
    found["student"] = score_probabilities(ours, gold.labels)
    if gold.probabilities is None:
        return found, None
    right = [(each.argmax(axis=1) == gold.labels).astype(np.float64) for each in (ours, gold.probabilities)]
    return found, tuple(mean_and_error(right[0] - right[1]))


def _cost(opened: Any, tokens: list[list[int]], out: Path, text: Path, training_s: float) -> CostRecord:
    import torch

    from edgepress.compress.classify.student import logits_of

    times = []
    for each in tokens:
        started = time.perf_counter()
        logits_of(opened, [each])
        times.append(1000 * (time.perf_counter() - started))
    times = times[_WARM_UP:] or times
    student = Cost(
        engine="torch",
        ms_per_text=statistics.median(times),
        timed_texts=len(times),
        parameters=sum(value.numel() for value in opened.model.parameters()),
        weight_bytes=sum(path.stat().st_size for path in out.glob("*.safetensors")),
        peak_rss_bytes=read_status().get("VmHWM", 0),
        threads=torch.get_num_threads(),
    )
    labelled = _label_record(text)
    machine: dict[str, Any] = msgspec.to_builtins(read_machine())
    teacher = labelled.cost if labelled else None
    return CostRecord(student=student, teacher=teacher, training_s=training_s, machine=machine)


def _label_record(text: Path) -> LabelRecord | None:
    """The record of a labelling beside its labels."""
    path = text.with_suffix(LABEL_RECORD_SUFFIX)
    try:
        return msgspec.json.decode(path.read_bytes(), type=LabelRecord)
    except (OSError, msgspec.DecodeError):
        return None


def _key(student: str, text: Path, gold: Path | None, settings: ClassifierSettings) -> str:
    return stage_key("classifier", _VERSION, student, settings, sha256_file(text), sha256_file(gold) if gold else None)

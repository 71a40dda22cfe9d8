"""``edgepress classifier``: labelled texts and a student become a small classifier, a Hugging Face directory.

The files take their places when the training is done, ``config.json`` after the weights; until then the output
directory holds the state of the training alone, out of sight. The cost of one text is measured at the end and lies
apart from the record, which is the same however often the run was killed.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.files import sha256_file, write_atomically
from edgepress.benchmarks.label_record import COST_FILE, Check, ClassifierRecord
from edgepress.benchmarks.report.classifier import write_classifier_report
from edgepress.compress.classify.config import ClassifierSettings
from edgepress.compress.classify.head import RIDGES, Head, divergence, fit_head, standard
from edgepress.compress.labels.duplicates import plain_words
from edgepress.compress.labels.texts import Labelled, read_labelled
from edgepress.compress.openmp import brief_waits
from edgepress.errors import InputError, require
from edgepress.pipeline.classifier_files import finished, tidy, write_classifier
from edgepress.pipeline.classifier_job import ClassifierJob, Data, Trained
from edgepress.pipeline.classifier_record import make_record, measure_cost
from edgepress.pipeline.own_output import check_own_output
from edgepress.pipeline.stages import Output, stage_key
from edgepress.progress import say

Array = NDArray[np.float64]
_VERSION = 1


def train_classifier(job: ClassifierJob, out: Path) -> ClassifierRecord:
    """Train a classifier and write it to ``out``; goes on where a killed run left off.

    Raises:
        InputError: a file or the student cannot be worked with, or ``out`` is another's.
        MissingExtraError: what draws the report is not installed.
        EdgepressError: the training diverged.
    """
    for drawn_by in ("jinja2", "plotly"):  # refused now and not after the training
        require(drawn_by, "report")
    check_own_output("classifier", out, str(job.student))
    data = _data(job)
    with brief_waits():
        from edgepress.compress.classify.forward import encode_texts, logits_of
        from edgepress.compress.classify.student import open_classifier

        opened = open_classifier(job.student, data.train.names, job.settings.seed)
        tokens = {part: encode_texts(opened, texts, job.settings.length) for part, texts in _texts(data).items()}
        key = _key(opened.digest, job)
        output = Output(out)
        with output.claim("classifier"):
            if done := finished(out, key):
                say("classifier: up to date")
                tidy(out)
                write_classifier_report(out)
                return done
            say(f"classifier: {len(data.train.texts):,} texts to train on, {len(data.held_out.texts):,} held out")
            trained = _train(opened, tokens, data, job.settings, output.training(key))
            logits = {part: logits_of(opened, each) for part, each in tokens.items() if part != "train"}
            record = make_record(opened, job, data, trained, logits)
            write_classifier(opened, key, out, record)
            cost = measure_cost(opened, tokens.get("gold") or tokens["held_out"], out, job, trained.seconds)
            write_atomically(out / COST_FILE, msgspec.json.format(msgspec.json.encode(cost), indent=2))
            tidy(out)
            write_classifier_report(out)
    return record


def _data(job: ClassifierJob) -> Data:
    labelled = read_labelled(job.text)
    judged = read_labelled(job.gold, labelled.names) if job.gold else None
    known = {plain_words(each) for each in judged.texts} if judged else set()
    fresh = labelled[np.array([plain_words(each) not in known for each in labelled.texts])]
    count = len(fresh.texts)
    apart = max(1, round(job.settings.held_out * count))
    if count < 2 * len(labelled.names) or apart >= count:
        raise InputError(f"{job.text}: {count} texts that are not gold ones; give more")
    drawn = np.zeros(count, np.bool_)
    drawn[np.random.default_rng((job.settings.seed, 0)).permutation(count)[:apart]] = True
    return Data(fresh[~drawn], fresh[drawn], judged, len(labelled.texts) - count)


def _texts(data: Data) -> dict[str, tuple[str, ...]]:
    found = {"train": data.train.texts, "held_out": data.held_out.texts}
    return found | ({"gold": data.gold.texts} if data.gold else {})


def _targets(labelled: Labelled, settings: ClassifierSettings) -> Array:
    soft = labelled.probabilities if settings.targets == "soft" else None
    return labelled.hard if soft is None else soft


def _train(opened: Any, tokens: dict[str, Any], data: Data, settings: ClassifierSettings, state: Path) -> Trained:
    """The head, and then all weights where asked for."""
    from edgepress.compress.classify.fine_tune import FineTuning
    from edgepress.compress.classify.forward import logits_of
    from edgepress.compress.distill.trainer_state import TrainerState

    started = time.monotonic()
    targets, judged = _targets(data.train, settings), _targets(data.held_out, settings)
    untrained = divergence(np.zeros(judged.shape), judged)
    ridge, found = _solve_head(opened, tokens, targets, judged, settings)
    if settings.mode == "head":
        both = Check(0, untrained), Check(len(data.train.texts), found)
        return Trained(ridge, (), both, time.monotonic() - started)
    solved = time.monotonic() - started
    training = FineTuning(opened, tokens["train"], targets, settings)
    run = training.train(TrainerState(state), lambda: divergence(logits_of(opened, tokens["held_out"]), judged))
    checks = tuple(Check(check.tokens, check.held_out) for check in run.checks)
    return Trained(ridge, run.losses, checks, solved + run.seconds)


def _solve_head(
    opened: Any, tokens: dict[str, Any], targets: Array, judged: Array, settings: ClassifierSettings
) -> tuple[float, float]:
    """Put the best head on the student; its ridge and its held-out divergence."""
    from edgepress.compress.classify.forward import features_of

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


def _key(student: str, job: ClassifierJob) -> str:
    gold = sha256_file(job.gold) if job.gold else None
    return stage_key("classifier", _VERSION, student, job.settings, sha256_file(job.text), gold)

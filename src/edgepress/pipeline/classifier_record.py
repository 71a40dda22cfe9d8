"""What came of a classifier: how well it tells labels beside its teacher, and what both cost."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.benchmarks.classification import Scores, mean_and_error, score_labels, score_probabilities
from edgepress.benchmarks.label_record import LABEL_RECORD_SUFFIX, ClassifierRecord, Cost, CostRecord, LabelRecord
from edgepress.benchmarks.process_memory import read_status
from edgepress.compress.labels.calibrate import probabilities
from edgepress.compress.labels.texts import Labelled
from edgepress.pipeline.classifier_job import ClassifierJob, Data, Trained
from edgepress.runtime.environment import read_machine

Array = NDArray[np.float64]
_TIMED_TEXTS, _WARM_UP = 64, 5


def make_record(
    opened: Any, job: ClassifierJob, data: Data, trained: Trained, logits: dict[str, Array]
) -> ClassifierRecord:
    """The record of a training.

    Args:
        opened: the student, a ``ClassifierStudent``.
        job: what was asked for.
        data: texts and labels.
        trained: how it went.
        logits: of the held-out texts and of the gold ones, if any, (texts, labels).
    """
    agreed = mean_and_error(logits["held_out"].argmax(axis=1) == data.held_out.labels)
    scores, apart = _judge(data.gold, logits)
    teacher = label_record(job.text)
    return ClassifierRecord(
        student=job.student,
        architecture=type(opened.model).__name__,
        start=opened.begun,
        labels=data.train.names,
        settings=msgspec.to_builtins(job.settings),
        files=(str(job.text), *([str(job.gold)] if job.gold else [])),
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
    apart = mean_and_error(right[0] - right[1])
    return found, (apart.mean, apart.se)


def measure_cost(opened: Any, tokens: list[list[int]], out: Path, job: ClassifierJob, training_s: float) -> CostRecord:
    """Time some texts one at a time, and put the teacher's cost beside it where it is known.

    Args:
        opened: the student.
        tokens: of texts, of which the first are timed.
        out: directory with the student's files.
        job: what was asked for.
        training_s: seconds that the training took.
    """
    import torch

    from edgepress.compress.classify.forward import logits_of

    times = []
    for each in tokens[: _TIMED_TEXTS + _WARM_UP]:
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
    labelled = label_record(job.text)
    machine: dict[str, Any] = msgspec.to_builtins(read_machine())
    teacher = labelled.cost if labelled else None
    return CostRecord(student=student, teacher=teacher, training_s=training_s, machine=machine)


def label_record(text: Path) -> LabelRecord | None:
    """The record of a labelling beside its labels."""
    path = text.with_suffix(LABEL_RECORD_SUFFIX)
    try:
        return msgspec.json.decode(path.read_bytes(), type=LabelRecord)
    except (OSError, msgspec.DecodeError):
        return None

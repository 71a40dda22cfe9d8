"""What a labelling leaves beside its labels, and what a trained classifier leaves for its report.

The labels and the classifier's own record are the same however often the work was killed; times and memory are of the
machine that did it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edgepress.benchmarks.classification import Scores

CLASSIFIER_FILE = "classifier.json"
COST_FILE = "measurements/cost.json"
LABEL_RECORD_SUFFIX, GOLD_SUFFIX = ".record.json", ".gold.jsonl"


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What a model takes to label texts one at a time.

    ms_per_text      the median
    timed_texts      behind it
    parameters       of the model
    weight_bytes     of its files as they were opened
    peak_rss_bytes   of the process, libraries included: one that scored, or one that trained
    """

    engine: str
    ms_per_text: float
    timed_texts: int
    parameters: int | None
    weight_bytes: int
    peak_rss_bytes: int
    threads: int


class Dropped(msgspec.Struct, frozen=True, kw_only=True):
    """Texts that were left out, in the order of the rules."""

    empty: int
    repeated: int
    nearly_repeated: int
    in_gold: int
    too_long: int
    unsure: int
    over_the_cap: int


class LabelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A labelling.

    task       as it was asked, with all defaults
    read       texts in the file
    kept       texts with a label, by label
    lean       what was taken off each label's log-probability, in nats
    gold       the teacher against gold labels, by way of calibration
    """

    teacher: str
    teacher_source: str
    teacher_digest: str
    task: dict[str, Any]
    texts: str
    read: int
    dropped: Dropped
    kept: dict[str, int]
    lean: dict[str, float]
    gold: dict[str, Scores]
    cost: Cost


class Check(msgspec.Struct, frozen=True):
    """Mean KL divergence from the labels of held-out texts, in nats, after some texts."""

    texts: int
    held_out_kl: float


class ClassifierRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A trained classifier.

    start          the student before, in words
    labels         names, in the order of the logits
    settings       with all defaults
    files          labelled texts, gold texts
    trained_on     texts; ``held_out`` of them judge, ``in_gold`` were left out because they are gold texts
    agreement      with the labels of held-out texts, a share and its standard error
    losses         of each step, in nats; ``checks`` on held-out texts, of which the student is the best
    gold           by name: majority, uncalibrated, teacher, student
    apart          accuracy of the student minus that of the teacher on the same texts, and its standard error
    teacher        of the labels, where their record was beside them
    """

    student: str
    architecture: str
    start: str
    labels: tuple[str, ...]
    settings: dict[str, Any]
    files: tuple[str, ...]
    trained_on: int
    held_out: int
    in_gold: int
    agreement: float
    agreement_se: float
    ridge: float
    losses: tuple[float, ...]
    checks: tuple[Check, ...]
    gold: dict[str, Scores]
    apart: tuple[float, float] | None
    teacher: str | None

    @property
    def taken(self) -> Check:
        """The check that the student is from."""
        return min(self.checks, key=lambda check: check.held_out_kl)


class CostRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Both sides' cost, and how long the training took."""

    student: Cost
    teacher: Cost | None
    training_s: float
    machine: dict[str, Any]

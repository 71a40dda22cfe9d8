"""What ``edgepress classifier`` is asked for, and what it works with."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec

from edgepress.benchmarks.label_record import Check
from edgepress.compress.classify.config import ClassifierSettings
from edgepress.compress.labels.texts import Labelled


class ClassifierJob(msgspec.Struct, frozen=True, kw_only=True):
    """A training.

    student    a Hugging Face directory of an encoder, or a decoder named like any STUDENT
    text       JSONL of {text, label, probabilities}; without probabilities the labels are learned as they are
    gold       JSONL of {text, label} to judge by; with the teacher's answers, where ``edgepress label`` wrote it
    settings   how
    """

    student: str
    text: Path
    gold: Path | None = None
    settings: ClassifierSettings = ClassifierSettings()


class Data(NamedTuple):
    """Texts to train on, held-out ones, gold ones, and how many were left out because they are gold."""

    train: Labelled
    held_out: Labelled
    gold: Labelled | None
    in_gold: int


class Trained(NamedTuple):
    """How the training went: the head's ridge, the loss of every step, the held-out checks, seconds."""

    ridge: float
    losses: tuple[float, ...]
    checks: tuple[Check, ...]
    seconds: float

"""What a distillation leaves for its report: the course of the training, and how fast it went.

``distillation.json`` is the same however often the run was killed; ``measurements/speed.json`` is of this machine.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edgepress.runtime.environment import Machine

RECORD_FILE = "distillation.json"
SPEED_FILE = "measurements/speed.json"
Judge = Literal["kl", "cross_entropy"]


class Check(msgspec.Struct, frozen=True):
    """What the judge said after some tokens, in nats per held-out token; less is better."""

    tokens: int
    held_out: float


class ModelSize(msgspec.Struct, frozen=True, kw_only=True):
    """How large a model is; ``ffn`` is that of its widest layer."""

    parameters: int
    layers: int
    hidden: int
    ffn: int


class TrainingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a distillation brought.

    teacher           None where there was none, and text alone was learned
    start             how the student began, in words
    training_tokens   trained on, repetitions counted
    text_tokens       of them different ones
    step_tokens       read in a step
    held_out_tokens   judged by
    losses            of each step, nats per learned token
    checks            on held-out text; the first is the start's
    kept              the student is the state of the check with the smallest, or of the last one
    judge             what the checks are: the KL divergence from the teacher, or without one the cross-entropy with
                      the text's own tokens
    """

    teacher: ModelSize | None
    student: ModelSize
    start: str
    training_tokens: int
    text_tokens: int
    step_tokens: int
    held_out_tokens: int
    losses: tuple[float, ...]
    checks: tuple[Check, ...]
    kept: Literal["best", "last"] = "best"
    judge: Judge = "kl"

    @property
    def taken(self) -> Check:
        """The check that the student is from."""
        return self.checks[-1] if self.kept == "last" else min(self.checks, key=lambda check: check.held_out)


class TrainingSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """Time that the steps took, checks and the teacher's cache not counted, and the machine of the last of them.

    ``threads`` are those of each of the ``processes`` that trained together, on a ``device`` each.
    """

    tokens: int
    seconds: float
    tokens_per_s: float
    threads: int
    processes: int = 1
    device: str = "cpu"
    machine: Machine

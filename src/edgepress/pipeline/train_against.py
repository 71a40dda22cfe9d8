"""Warm-up and training against a discriminator put together, and the record of what came of it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from edgepress.benchmarks.gad_record import Ending, GadCheck, GadRecord, GadStep, WarmUpRecord
from edgepress.benchmarks.training_record import ModelSize, TrainingSpeed
from edgepress.compress.distill.gad.adversary import Adversary
from edgepress.compress.distill.gad.config import GadSettings
from edgepress.compress.distill.gad.judge import HeldOut
from edgepress.compress.distill.gad.pairs import Pair
from edgepress.compress.distill.gad.progress import GadProgress
from edgepress.compress.distill.gad.warm_up import warm_up
from edgepress.compress.distill.trainer_state import TrainerState
from edgepress.compress.student.student import Student
from edgepress.progress import say
from edgepress.runtime.environment import read_machine
from edgepress.runtime.text import TextCodec
from edgepress.runtime.torch_reference import load_model


class TrainedAgainst(NamedTuple):
    """A student's tensors by name, float32; how it got there, and how fast."""

    record: GadRecord
    speed: TrainingSpeed
    tensors: dict[str, Any]


def train_against(
    start: Student, settings: GadSettings, pairs: list[Pair], held_out: list[Pair], state: Path
) -> TrainedAgainst:
    """Train, from the saved states where there are some.

    Args:
        start: the student before.
        settings: how.
        pairs, held_out: the teacher's answers, to train on and to judge by.
        state: directory of the saved states.

    Raises:
        EdgepressError: the training diverged.
    """
    student, stop_ids = load_model(start), TextCodec(start.tokenizer_dir).stop_ids
    say(f"student: {sum(value.numel() for value in student.parameters()):,} parameters")
    warmed: WarmUpRecord | None = None
    if settings.warm_up.passes:
        say("warm-up: cross-entropy with the teacher's answers")
        course = warm_up(student, pairs, held_out, settings, TrainerState(state / "warm-up"))
        warmed = WarmUpRecord(steps=course.steps, before=course.checks[0].held_out, after=course.best.held_out)
    reference = copy.deepcopy(student)
    judge = HeldOut(reference, held_out, settings.gad, stop_ids)
    adversary = Adversary(student, reference, pairs, judge, settings, stop_ids)
    run = adversary.train(TrainerState[GadProgress](state / "gad", GadProgress))
    tensors = {name: student.get_parameter(name).detach().numpy() for name in start.names}
    record = _record(start, settings, pairs, held_out, run, warmed, judge.teachers_distinct)
    return TrainedAgainst(record, _speed(run, record), tensors)


def _record(
    start: Student,
    settings: GadSettings,
    pairs: list[Pair],
    held_out: list[Pair],
    run: GadProgress,
    warmed: WarmUpRecord | None,
    teachers_distinct: float,
) -> GadRecord:
    spec, answers = start.spec, settings.gad.samples * min(settings.gad.prompts, len(pairs))
    widest = max(layer.ffn for layer in spec.layers)
    return GadRecord(
        student=ModelSize(parameters=start.parameters, layers=spec.depth, hidden=spec.hidden, ffn=widest),
        answers=len(pairs),
        answer_tokens=sum(len(pair.answer) for pair in pairs),
        held_out_answers=len(held_out),
        teachers_distinct=teachers_distinct,
        warm_up=warmed,
        discriminator_steps=settings.gad.discriminator_steps,
        written_tokens=round(sum(row.answer_tokens * answers for row in run.rows)),
        steps=msgspec.convert(run.rows, tuple[GadStep, ...], from_attributes=True),
        checks=msgspec.convert(run.checks, tuple[GadCheck, ...], from_attributes=True),
        endings=msgspec.convert(run.endings, tuple[Ending, ...], from_attributes=True),
    )


def _speed(run: GadProgress, record: GadRecord) -> TrainingSpeed:
    return TrainingSpeed(
        tokens=record.written_tokens,
        seconds=run.seconds,
        tokens_per_s=record.written_tokens / max(run.seconds, 1e-9),
        threads=torch.get_num_threads(),
        machine=read_machine(),
    )

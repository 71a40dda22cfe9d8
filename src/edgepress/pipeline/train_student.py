"""A training from its parts: targets, judge and trainer put together, and the record of what came of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from edgepress.artifact.spec import ModelSpec
from edgepress.artifact.weights import WeightSource
from edgepress.benchmarks.training_record import Check, ModelSize, TrainingRecord, TrainingSpeed
from edgepress.compress.distill.config import Loss, Training
from edgepress.compress.distill.text import Text
from edgepress.compress.distill.trainer_state import Progress
from edgepress.compress.student.student import Student
from edgepress.pipeline.distill_job import Settings
from edgepress.progress import say
from edgepress.runtime.environment import read_machine
from edgepress.runtime.text import TextCodec


class Trained(NamedTuple):
    """A student's tensors by name, float32; how it got there, and how fast."""

    record: TrainingRecord
    speed: TrainingSpeed
    tensors: dict[str, Any]


def train_student(
    teacher: Student | None,
    start: WeightSource,
    settings: Settings,
    text: Text,
    held_out: Text,
    state: Path,
    *,
    begun: str,
) -> Trained:
    """Train, from the saved state where there is one.

    Args:
        teacher: the model to learn from; None learns the text alone, and is judged by it.
        start: the student's weights before.
        settings: loss and training.
        text, held_out: to train on and to judge by, windows of one length.
        state: directory of the saved state.
        begun: how the student began, in words.

    Raises:
        EdgepressError: the training diverged.
    """
    from edgepress.compress.distill.on_policy import OnPolicy
    from edgepress.compress.distill.train import Trainer
    from edgepress.compress.distill.trainer_state import TrainerState
    from edgepress.runtime.torch_reference import load_model

    targets, judge = _targets(teacher, text, settings.loss, settings.train), _judge(teacher, held_out)
    student = load_model(start)
    say(f"student: {sum(value.numel() for value in student.parameters()):,} parameters")
    size = (teacher or start).spec.depth, (teacher or start).spec.hidden
    writer = OnPolicy(settings.train, TextCodec(start.tokenizer_dir).stop_ids) if settings.train.on_policy else None
    trainer = Trainer(student, targets, text, settings.loss, settings.train, size, writer)
    judged_by = "divergence" if teacher else "cross-entropy"
    run = trainer.train(TrainerState(state), judge, judged_by)
    tensors = {name: student.get_parameter(name).detach().numpy() for name in start.names}
    record = TrainingRecord(
        teacher=_size(teacher.spec, teacher.parameters) if teacher else None,
        student=_size(start.spec, sum(values.size for values in tensors.values())),
        start=begun,
        training_tokens=run.checks[-1].tokens,
        text_tokens=min(run.checks[-1].tokens, text.tokens.size) or text.tokens.size,
        step_tokens=settings.train.windows_per_step * settings.train.length,
        held_out_tokens=int(held_out.learned[:, 1:].sum()),
        losses=run.losses,
        kept=settings.train.keep,
        checks=tuple(Check(check.tokens, check.held_out) for check in run.checks),
        judge="kl" if teacher else "cross_entropy",
    )
    return Trained(record, _speed(run, record), tensors)


def _speed(run: Progress, record: TrainingRecord) -> TrainingSpeed:
    tokens = len(run.losses) * record.step_tokens
    return TrainingSpeed(
        tokens=tokens,
        seconds=run.seconds,
        tokens_per_s=tokens / max(run.seconds, 1e-9),
        threads=torch.get_num_threads(),
        machine=read_machine(),
    )


def _size(spec: ModelSpec, parameters: int) -> ModelSize:
    widest = max(layer.ffn for layer in spec.layers)
    return ModelSize(parameters=parameters, layers=spec.depth, hidden=spec.hidden, ffn=widest)


def _judge(teacher: Student | None, held_out: Text) -> Callable[[Any], float]:
    from edgepress.compress.distill.held_out import HeldOut, HeldOutWords

    return HeldOut(teacher, held_out).divergence if teacher else HeldOutWords(held_out).cross_entropy


def _targets(teacher: Student | None, text: Text, loss: Loss, training: Training) -> Any:
    from edgepress.compress.distill.precision import in_bfloat16
    from edgepress.compress.distill.targets import CachedTargets, TeacherAlongside, TextOnly
    from edgepress.compress.distill.teacher_cache import TeacherCache
    from edgepress.runtime.torch_reference import load_model

    if teacher is None or not loss.needs_teacher:
        return TextOnly()
    if not training.top_k:
        return TeacherAlongside(load_model(teacher), loss, in_bfloat16=in_bfloat16(training))
    cache = TeacherCache(teacher, text.tokens, training.top_k, in_bfloat16=in_bfloat16(training))
    return CachedTargets(cache, loss)

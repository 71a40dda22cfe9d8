"""A training from its parts: targets, judge and trainer put together, and the record of what came of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgepress.artifact.spec import ModelSpec
from edgepress.artifact.weights import WeightSource
from edgepress.benchmarks.training_record import Check, ModelSize, TrainingRecord, TrainingSpeed
from edgepress.compress.distill.config import Training, check_rank
from edgepress.compress.distill.text import Text
from edgepress.compress.distill.trainer_state import Progress
from edgepress.compress.student.student import Student
from edgepress.errors import InputError
from edgepress.pipeline.distill_job import Settings
from edgepress.progress import say
from edgepress.runtime.environment import read_machine
from edgepress.runtime.text import TextCodec

if TYPE_CHECKING:
    from edgepress.compress.distill.processes import Processes
    from edgepress.compress.distill.targets import Targets


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
    processes: Processes | None = None,
) -> Trained:
    """Train, from the saved state where there is one. Of several processes the first has the student.

    Args:
        teacher: the model to learn from; None learns the text alone, and is judged by it.
        start: the student's weights before.
        settings: loss and training.
        text, held_out: to train on and to judge by, windows of one length.
        state: directory of the saved state.
        begun: how the student began, in words.
        processes: those that train together; this one alone if not given.

    Raises:
        InputError: adapters of a higher rank than a matrix, or fewer windows in a step than processes.
        EdgepressError: the training diverged.
    """
    from edgepress.compress.distill.on_policy import OnPolicy
    from edgepress.compress.distill.processes import alone
    from edgepress.compress.distill.train import Trainer
    from edgepress.compress.distill.trainer_state import TrainerState
    from edgepress.runtime.torch_reference import load_model

    processes = processes or alone()
    _check_training(settings.train, start, processes)
    targets, judge = _targets(teacher, text, settings, processes), _judge(teacher, held_out, processes)
    student = load_model(start)
    say(f"student: {sum(value.numel() for value in student.parameters()):,} parameters")
    size, writer = ((teacher or start).spec.depth, (teacher or start).spec.hidden), None
    if settings.train.on_policy:
        writer = OnPolicy(settings.train, TextCodec(start.tokenizer_dir).stop_ids, processes.index)
    trainer = Trainer(student, targets, text, settings.loss, settings.train, size, writer, processes)
    if settings.train.lora:
        say(f"adapters of rank {settings.train.lora.rank}: {trainer.parameters:,} parameters to train")
    run = trainer.train(TrainerState(state), judge, "divergence" if teacher else "cross-entropy")
    tensors = {name: student.get_parameter(name).detach().cpu().numpy() for name in start.names}
    sizes = (
        _size(teacher.spec, teacher.parameters) if teacher else None,
        _size(start.spec, sum(value.size for value in tensors.values())),
    )
    record = _record(run, settings.train, sizes, (text, held_out), begun)
    return Trained(record, _speed(run, record, processes), tensors)


def _record(
    run: Progress, training: Training, sizes: tuple[ModelSize | None, ModelSize], texts: tuple[Text, Text], begun: str
) -> TrainingRecord:
    trained = run.checks[-1].tokens
    return TrainingRecord(
        teacher=sizes[0],
        student=sizes[1],
        start=begun,
        training_tokens=trained,
        text_tokens=min(trained, texts[0].tokens.size) or texts[0].tokens.size,
        step_tokens=training.windows_per_step * training.length,
        held_out_tokens=int(texts[1].learned[:, 1:].sum()),
        losses=run.losses,
        kept=training.keep,
        checks=tuple(Check(check.tokens, check.held_out) for check in run.checks),
        judge="kl" if sizes[0] else "cross_entropy",
    )


def _check_training(training: Training, start: WeightSource, processes: Processes) -> None:
    check_rank(training.lora, {name: start.shape(name) for name in start.names})
    if training.windows_per_step < processes.count:
        raise InputError(
            f"batch_tokens: {training.batch_tokens} are {training.windows_per_step} windows of {training.length}, too "
            f"few for {processes.count} processes; take {processes.count * training.length} or more"
        )


def _speed(run: Progress, record: TrainingRecord, processes: Processes) -> TrainingSpeed:
    import torch

    tokens = len(run.losses) * record.step_tokens
    return TrainingSpeed(
        tokens=tokens,
        seconds=run.seconds,
        tokens_per_s=tokens / max(run.seconds, 1e-9),
        threads=torch.get_num_threads(),
        processes=processes.count,
        device=processes.device.type,
        machine=read_machine(),
    )


def _size(spec: ModelSpec, parameters: int) -> ModelSize:
    widest = max(layer.ffn for layer in spec.layers)
    return ModelSize(parameters=parameters, layers=spec.depth, hidden=spec.hidden, ffn=widest)


def _judge(teacher: Student | None, held_out: Text, processes: Processes) -> Callable[[Any], float]:
    from edgepress.compress.distill.held_out import HeldOut, HeldOutWords

    if not processes.is_first:
        return lambda _student: math.nan  # the first process is asked
    return HeldOut(teacher, held_out).divergence if teacher else HeldOutWords(held_out).cross_entropy


def _targets(teacher: Student | None, text: Text, settings: Settings, processes: Processes) -> Targets:
    from edgepress.compress.distill.precision import in_bfloat16
    from edgepress.compress.distill.targets import CachedTargets, TeacherAlongside, TextOnly
    from edgepress.compress.distill.teacher_cache import TeacherCache
    from edgepress.runtime.torch_reference import load_model

    loss, device = settings.loss, processes.device
    narrow = in_bfloat16(settings.train, device)
    if teacher is None or not loss.needs_teacher:
        return TextOnly()
    if not settings.train.top_k:
        return TeacherAlongside(load_model(teacher).to(device), loss, in_bfloat16=narrow)
    open_cache = partial(TeacherCache, teacher, text.tokens, settings.train.top_k, in_bfloat16=narrow, device=device)
    return CachedTargets(processes.after_first(open_cache), loss)

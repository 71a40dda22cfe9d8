"""``edgepress distill``: a teacher and text become a student, a Hugging Face directory that every command takes.

The student's files are written when the training is done, ``config.json`` after the weights, the manifest last. Until
then the output directory holds the state of the training alone, out of sight.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgepress.artifact.manifest import MANIFEST_FILE
from edgepress.artifact.weights import WeightSource
from edgepress.compress.distill.config import Loss, Training, check_loss
from edgepress.compress.distill.smaller import smaller_size
from edgepress.compress.distill.text import Text, held_out_windows, read_windows, split, text_digest
from edgepress.compress.openmp import brief_waits
from edgepress.compress.student.student import Student
from edgepress.errors import InputError
from edgepress.pipeline.distill_job import Check, Job, Record
from edgepress.pipeline.distilled_student import finished, tidy, write_student
from edgepress.pipeline.stages import Output, stage_key
from edgepress.progress import say
from edgepress.runtime.text import TextCodec

_CALIBRATION_WINDOWS = 32
_VERSION = 1


def distill(teacher: Student, student: Student | None, job: Job, out: Path) -> Record:
    """Train a student and write it to ``out``; goes on where a killed run left off.

    Args:
        teacher: the model to learn from.
        student: where to start; None takes ``job.sizes`` of the teacher.
        job: what else is to be done.
        out: output directory.

    Raises:
        InputError: the vocabularies differ, a size, loss or text does not fit, or ``out`` is another's.
        EdgepressError: the training diverged.
    """
    check_loss(job.settings.loss, job.settings.train, teacher.spec.vocab)
    if student is not None:
        check_same_vocabulary(teacher, student)
    train, held_out = _texts(teacher, job)
    with brief_waits():
        start = _start(teacher, job, train) if student is None else student
        key = _key(teacher, start, job)
        output = Output(out)
        with output.claim():
            if done := finished(out, key):
                say("student: up to date")
                tidy(out)
                return done
            say(f"text: {train.tokens.size:,} tokens to train on, {held_out.tokens.size:,} held out")
            (out / MANIFEST_FILE).unlink(missing_ok=True)
            state = out / ".edgepress" / f"training-{key[:16]}"
            record, tensors = _train(teacher, start, job, train, held_out, state)
            write_student(teacher, start, job, key, out, record, tensors)
            tidy(out)
    return record


def check_same_vocabulary(teacher: Student, student: Student) -> None:
    """Refuse models whose token ids do not mean the same.

    Raises:
        InputError: says where they differ.
    """
    if teacher.spec.vocab != student.spec.vocab:
        raise InputError(
            f"{student.name} has a vocabulary of {student.spec.vocab} tokens and {teacher.name} one of "
            f"{teacher.spec.vocab}; distributions over different tokens cannot be compared: take a student with the "
            "teacher's tokenizer, or start one from the teacher (--start)"
        )
    ours, theirs = (TextCodec(model.tokenizer_dir).vocabulary for model in (student, teacher))
    if ours != theirs:
        token = min(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        raise InputError(
            f"the tokenizers of {student.name} and {teacher.name} differ: {token[:40]!r} is token {ours.get(token)} in "
            f"one and {theirs.get(token)} in the other; take a student with the teacher's tokenizer, or start one from "
            "the teacher (--start)"
        )


def _texts(teacher: Student, job: Job) -> tuple[Text, Text]:
    """What is trained on, and what is held out; no more windows than the run reads."""
    training = job.settings.train
    if training.length > teacher.spec.context:
        raise InputError(f"train.length: {training.length} tokens; {teacher.name} takes {teacher.spec.context}")
    codec = TextCodec(teacher.tokenizer_dir)
    text = read_windows(codec, job.text, training.length)
    if job.held_out:
        held_out = held_out_windows(codec, job.held_out, job.text, training.length)
    else:
        text, held_out = split(text, training.seed)
    wanted = training.steps * training.windows_per_step
    return text[:wanted], held_out


def _start(teacher: Student, job: Job, text: Text) -> WeightSource:
    from edgepress.compress.distill.channel_statistics import channel_statistics
    from edgepress.compress.distill.random_start import RandomWeights
    from edgepress.compress.distill.weight_selection import SelectedWeights

    if job.sizes is None:
        raise InputError("no student: give --student, or --start with the sizes of one")
    size = smaller_size(teacher, job.sizes, job.layers)
    if job.select == "random":
        return RandomWeights(teacher, size, job.settings.train.seed)
    statistics = channel_statistics(teacher, text.tokens[:_CALIBRATION_WINDOWS]) if job.select == "importance" else None
    return SelectedWeights(teacher, size, statistics)


def _key(teacher: Student, start: WeightSource, job: Job) -> str:
    texts = text_digest(job.text), text_digest(job.held_out)
    return stage_key("distill", _VERSION, teacher.digest(), start.digest(), job.settings, texts)


def _train(
    teacher: Student, start: WeightSource, job: Job, text: Text, held_out: Text, state: Path
) -> tuple[Record, dict[str, Any]]:
    from edgepress.compress.distill.held_out import HeldOut
    from edgepress.compress.distill.train import Trainer
    from edgepress.compress.distill.trainer_state import TrainerState
    from edgepress.runtime.torch_reference import load_model

    loss, training = job.settings.loss, job.settings.train
    targets, judge = _targets(teacher, text, loss, training), HeldOut(teacher, held_out)
    student = load_model(start)
    say(f"student: {sum(value.numel() for value in student.parameters()):,} parameters")
    trainer = Trainer(student, targets, text, loss, training, (teacher.spec.depth, teacher.spec.hidden))
    run = trainer.train(TrainerState(state), judge.divergence)
    tensors = {name: student.get_parameter(name).detach().numpy() for name in start.names}
    record = Record(
        parameters=sum(values.size for values in tensors.values()),
        training_tokens=run.checks[-1].tokens,
        step_tokens=training.windows_per_step * training.length,
        held_out_tokens=int(held_out.learned[:, 1:].sum()),
        losses=run.losses,
        checks=tuple(Check(check.tokens, check.held_out_kl) for check in run.checks),
    )
    return record, tensors


def _targets(teacher: Student, text: Text, loss: Loss, training: Training) -> Any:
    from edgepress.compress.distill.targets import CachedTargets, TeacherAlongside, TextOnly
    from edgepress.compress.distill.teacher_cache import TeacherCache
    from edgepress.runtime.torch_reference import load_model

    if not loss.needs_teacher:
        return TextOnly()
    if not training.top_k:
        return TeacherAlongside(load_model(teacher), loss)
    return CachedTargets(TeacherCache(teacher, text.tokens, training.top_k), loss)

"""``edgepress distill``: a teacher and text become a student, a Hugging Face directory that every command takes.

Without a teacher the text is all there is to learn: what one that only answers has written.

The student's files are written when the training is done, ``config.json`` after the weights, the manifest last. Until
then the output directory holds the state of the training alone, out of sight.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from edgepress.artifact.files import write_atomically
from edgepress.artifact.manifest import MANIFEST_FILE
from edgepress.artifact.weights import WeightSource
from edgepress.benchmarks.report.training import write_training_report
from edgepress.benchmarks.training_record import SPEED_FILE, TrainingRecord
from edgepress.compress.distill.config import check_loss, check_rank, check_without_teacher
from edgepress.compress.distill.shares import sizes_from_shares
from edgepress.compress.distill.smaller import smaller_size
from edgepress.compress.distill.text import Text, draw, held_out_windows, read_windows, split, text_digest
from edgepress.compress.openmp import brief_waits
from edgepress.compress.student.expected import expected_shapes
from edgepress.compress.student.student import Student
from edgepress.errors import InputError, require, require_installed
from edgepress.pipeline.distill_job import Job
from edgepress.pipeline.distilled_student import finished, tidy, write_student
from edgepress.pipeline.held_shapes import note_refused_exports
from edgepress.pipeline.own_output import check_own_output
from edgepress.pipeline.stages import Output, stage_key
from edgepress.pipeline.train_student import Trained, train_student
from edgepress.progress import say, silence
from edgepress.runtime.text import TextCodec

_CALIBRATION_WINDOWS = 32
_VERSION = 5


def distill(teacher: Student | None, student: Student | None, job: Job, out: Path) -> TrainingRecord | None:
    """Train a student and write it to ``out``; goes on where a killed run left off.

    Several processes that a launcher has started train it together; the first writes it, and the others have no record.

    Args:
        teacher: the model to learn from; None learns the text's own words alone.
        student: where to start; None takes ``job.sizes`` of the teacher.
        job: what else is to be done.
        out: output directory.

    Raises:
        InputError: the vocabularies differ, a size, loss or text does not fit, or ``out`` is another's.
        MissingExtraError: what draws the report is not installed.
        EdgepressError: the training diverged.
    """
    for drawn_by in ("jinja2", "plotly"):  # refused now and not after the training
        require(drawn_by, "report")
    if job.settings.train.lora:
        require_installed("peft", "compress")
    check_own_output("distill", out, *(model.source for model in (teacher, student) if model))
    reader = _checked(teacher, student, job)
    if student is not None:
        check_rank(job.settings.train.lora, expected_shapes(student.spec, student.config))
    texts = _texts(reader, job)
    with brief_waits():
        from edgepress.compress.distill.processes import joined

        with joined() as processes, silence(not processes.is_first):
            start = student or processes.after_first(partial(_start, reader, job, texts[0]))
            key = _key(teacher, start, job)
            state = out / ".edgepress" / f"training-{key[:16]}"
            train = partial(
                train_student, teacher, start, job.settings, *texts, state,
                begun=_begun(job, student), processes=processes,
            )  # fmt: skip
            if not processes.is_first:
                if not processes.from_first(lambda: True):
                    train()
                return None
            with Output(out).claim("distill"):
                done = finished(out, key)
                if processes.from_first(lambda: done is not None):
                    say("student: up to date")
                else:
                    if student is None:
                        note_refused_exports(start)
                    say(f"text: {texts[0].tokens.size:,} tokens to train on, {texts[1].tokens.size:,} held out")
                    (out / MANIFEST_FILE).unlink(missing_ok=True)
                    done = _write(teacher, start, job, key, out, train())
                tidy(out)
                write_training_report(out)
    return done


def _write(
    teacher: Student | None, start: WeightSource, job: Job, key: str, out: Path, trained: Trained
) -> TrainingRecord:
    write_atomically(out / SPEED_FILE, msgspec.json.format(msgspec.json.encode(trained.speed), indent=2))
    write_student(teacher, start, job, key, out, trained.record, trained.tensors)
    return trained.record


def _checked(teacher: Student | None, student: Student | None, job: Job) -> Student:
    """Whose tokenizer reads the text: the teacher, or the student that has none.

    Raises:
        InputError: the models, the loss and the start do not go together.
    """
    if teacher is None:
        if student is None:
            raise InputError(
                "a start is slices of the teacher, and no teacher is given; give --teacher, or --student with a model "
                "to train"
            )
        check_without_teacher(job.settings.loss, job.settings.train)
        return student
    check_loss(job.settings.loss, job.settings.train, teacher.spec.vocab)
    if student is not None:
        check_same_vocabulary(teacher, student)
    return teacher


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


def _texts(reader: Student, job: Job) -> tuple[Text, Text]:
    """What is trained on, and what is held out; no more windows than the run reads."""
    training = job.settings.train
    if training.length > reader.spec.context:
        raise InputError(f"train.length: {training.length} tokens; {reader.name} takes {reader.spec.context}")
    codec = TextCodec(reader.tokenizer_dir)
    text = read_windows(codec, job.text, training.length)
    if job.held_out:
        held_out = held_out_windows(codec, job.held_out, job.text, training.length)
    else:
        text, held_out = split(text, training.seed)
    return draw(text, training.steps * training.windows_per_step), held_out


def _start(teacher: Student, job: Job, text: Text) -> WeightSource:
    from edgepress.compress.distill.random_start import RandomWeights
    from edgepress.compress.distill.statistics_cache import cached_statistics
    from edgepress.compress.distill.weight_selection import SelectedWeights

    size = smaller_size(teacher, _sizes(teacher, job), job.layers)
    check_rank(job.settings.train.lora, expected_shapes(size.spec, size.config))
    if size.spec == teacher.spec and job.select != "random":
        raise InputError("start: the sizes are the teacher's own; give smaller ones, or --student to train it as it is")
    if job.select == "random":
        return RandomWeights(teacher, size, job.settings.train.seed)
    windows = text.tokens[:_CALIBRATION_WINDOWS]
    statistics = cached_statistics(teacher, windows) if job.select == "importance" else None
    return SelectedWeights(teacher, size, statistics)


def _sizes(teacher: Student, job: Job) -> dict[str, Any]:
    if job.sizes is not None:
        return job.sizes
    if job.settings.start is None:
        raise InputError("no student: give --student, --start with the sizes of one, or settings with a start")
    return sizes_from_shares(teacher.spec, job.settings.start)


def _begun(job: Job, student: Student | None) -> str:
    """How the student begins, in words."""
    if student is not None:
        return student.name
    ways = {"importance": "its most important channels", "uniform": "evenly spaced channels of it"}
    return ways.get(job.select, "random weights")


def _key(teacher: Student | None, start: WeightSource, job: Job) -> str:
    texts = text_digest(job.text), text_digest(job.held_out)
    return stage_key("distill", _VERSION, teacher and teacher.digest(), start.digest(), job.settings, texts)

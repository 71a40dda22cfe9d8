"""The distill step of a recipe: what pruning left is trained towards the student as it came in.

The training saves its state in the output directory, out of sight, so that a killed run goes on; the stage appears when
it is done, and the state goes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.checkpoint import CheckpointWriter
from edgepress.artifact.families import LAYER
from edgepress.artifact.files import tree_bytes
from edgepress.artifact.hf_shapes import with_shapes
from edgepress.benchmarks.report.numerals import significant
from edgepress.benchmarks.training_record import RECORD_FILE, TrainingRecord
from edgepress.compress.calibrate.tokens import calibration_windows
from edgepress.compress.distill.config import DistillStep, Training, check_loss, check_rank
from edgepress.compress.distill.documents import require_documents
from edgepress.compress.openmp import brief_waits
from edgepress.compress.quantize.layers import copy_tokenizer
from edgepress.compress.student.expected import expected_shapes
from edgepress.compress.student.student import Student
from edgepress.errors import InputError, require_installed
from edgepress.pipeline.distill_job import Settings
from edgepress.progress import say
from edgepress.recipe import Recipe

if TYPE_CHECKING:
    from edgepress.compress.distill.text import Text


def check_healing(student: Student, recipe: Recipe) -> None:
    """Refuse what cannot be trained, before any work.

    Raises:
        InputError: a loss that the teacher's cache cannot give, adapters of a higher rank than a matrix, a text that is
            not there, or too little of it.
        MissingExtraError: adapters, and peft is not installed.
    """
    for step in recipe.healing:
        length = _length(student, step, recipe)
        check_loss(step.loss, step.training(length, recipe.calibration.seed), student.spec.vocab)
        check_rank(step.lora, expected_shapes(student.spec, student.config))
        if step.lora:
            require_installed("peft", "compress")
        if step.files and step.length > student.spec.context:
            raise InputError(f"distill: length {step.length} tokens; {student.name} takes {student.spec.context}")
        if step.files:
            _check_files(student, step, trimmed=recipe.trimming is not None)
        if not step.files and recipe.calibration.samples < 2:
            raise InputError(
                "distill: calibration.samples is 1, and one window is held out; take at least 2, or give files"
            )


def _check_files(student: Student, step: DistillStep, *, trimmed: bool) -> None:
    """What is no text, or too little, is refused now and not behind the pruning.

    A trimmed vocabulary cuts a text into more tokens than the student's: how many is not known yet, but no more than
    it has bytes.
    """
    from edgepress.compress.distill.text import require_windows
    from edgepress.runtime.text import TextCodec

    for name in step.files:
        require_documents("distill: files", name)
    may_suffice = trimmed and sum(tree_bytes(Path(name)) for name in step.files) >= 2 * step.length
    require_windows(TextCodec(student.tokenizer_dir), step.files, 2 if may_suffice else step.length)


def healing_digest(step: DistillStep) -> str:
    """Changes with the content of the step's files."""
    from edgepress.compress.distill.text import text_digest

    return text_digest(step.files)


def heal(original: Student, student: Student, step: DistillStep, recipe: Recipe, state: Path, directory: Path) -> None:
    """Train, and write the float32 checkpoint into ``directory``, which exists and is empty.

    Args:
        original: the teacher, which also writes the calibration text.
        student: what the steps before have left.
        step: how it is trained.
        recipe: with the calibration text.
        state: directory of the saved state.
        directory: of the stage.
    """
    from edgepress.pipeline.train_student import train_student

    narrowed = student.spec.hidden != original.spec.hidden
    with brief_waits():
        training, text, held_out = _texts(original, step, recipe, narrowed=narrowed)
        settings = Settings(loss=step.loss, train=training)
        trained = train_student(original, student, settings, text, held_out, state, begun=student.name)
    _write(student, trained.tensors, directory)
    (directory / RECORD_FILE).write_bytes(msgspec.json.encode(trained.record))
    say(f"distill: {what_healed(directory)}")


def _texts(original: Student, step: DistillStep, recipe: Recipe, *, narrowed: bool) -> tuple[Training, Text, Text]:
    """How it is trained, on what, and what is held out; no more windows than the training reads."""
    from edgepress.compress.distill import text as texts
    from edgepress.runtime.text import TextCodec

    seed = recipe.calibration.seed
    if step.files:
        text = texts.read_windows(TextCodec(original.tokenizer_dir), step.files, step.length)
    else:
        windows = calibration_windows(original, recipe.calibration)
        text = texts.Text(windows, np.ones(windows.shape, bool))
    training = step.training(text.tokens.shape[1], seed, narrowed=narrowed)
    text, held_out = texts.split(text, seed)
    return training, texts.draw(text, training.steps * training.windows_per_step), held_out


def what_healed(directory: Path) -> str:
    """What a finished stage brought, in words."""
    record = msgspec.json.decode((directory / RECORD_FILE).read_bytes(), type=TrainingRecord)
    first, best = record.checks[0].held_out, record.taken.held_out
    return (
        f"healed: on {record.taken.tokens:,} tokens, divergence from the student as it came in {significant(first)} → "
        f"{significant(best)} nats per token on text held out"
    )


def _length(student: Student, step: DistillStep, recipe: Recipe) -> int:
    return step.length if step.files else min(recipe.calibration.length, student.spec.context)


def _write(source: Student, tensors: dict[str, NDArray[np.float32]], directory: Path) -> None:
    """A float32 checkpoint of the source's shape with other values."""
    spec = source.spec
    writer = CheckpointWriter(directory, shards=spec.depth + 1)
    left = dict(tensors)
    for index in range(spec.depth):
        shard = {name: left.pop(name) for name in source.names if name.startswith(LAYER.format(i=index))}
        writer.write_shard(shard, dict.fromkeys(shard, "f32"))
    writer.write_shard(left, dict.fromkeys(left, "f32"))
    copy_tokenizer(source.tokenizer_dir, directory)
    config = with_shapes(source.config | {"tie_word_embeddings": spec.tied}, spec.layers, spec.head_dim)
    writer.finish(config, source.name)

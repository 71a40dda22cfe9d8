"""The trim_vocabulary stage: the student with the smaller vocabulary, which everything behind it is measured against.

Whoever runs the step is told what it costs on text that took no part in the choice: tokens, and bits per byte.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from edgepress.benchmarks.report.numerals import significant
from edgepress.compress.calibrate.tokens import calibration_digest, calibration_windows, read_text, require_file
from edgepress.compress.openmp import brief_waits
from edgepress.compress.prune.config import TrimVocabulary
from edgepress.compress.student.checkpoint import CheckpointStudent
from edgepress.compress.student.student import Student
from edgepress.errors import InputError
from edgepress.pipeline.pre_tokenizer import keep_pre_tokenizer
from edgepress.pipeline.stages import Output, stage_key
from edgepress.progress import say
from edgepress.recipe import Recipe
from edgepress.runtime.text import TextCodec

_STAGE, _RECORD_FILE = "trimmed", "trim.json"
_PIECE_BYTES = 2000
_EVERY = 8  # of which one piece is held out
_JUDGING_PIECES = 24


class TrimRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a vocabulary became: its size, and what held-out text costs, before and after."""

    vocabulary: tuple[int, int]
    parameters: tuple[int, int]
    tokens: tuple[int, int]
    bits_per_byte: tuple[float, float]


def check_trimming(student: Student, recipe: Recipe) -> None:
    """Refuse a vocabulary that cannot be trimmed, before any work.

    Raises:
        InputError: a text that is not there or not UTF-8, or a tokenizer that is not made of merges.
    """
    if (step := recipe.trimming) is None:
        return
    from edgepress.compress.prune.trim import read_tokenizer  # brings torch with it

    for name in step.files:
        require_file("trim_vocabulary: files", name)
        read_text(Path(name))
    read_tokenizer(student)


def trim(student: Student, recipe: Recipe, output: Output) -> Student:
    """Do a recipe's trim_vocabulary step; the student itself where it has none."""
    if (step := recipe.trimming) is None:
        output.forget(_STAGE)
        return student
    texts = _files_digest(step) if step.files else calibration_digest(recipe.calibration)
    key = stage_key("trim", 2, student.digest(), student.name, step, texts)
    return CheckpointStudent(output.run(_STAGE, key, partial(_make, student, step, recipe)))


def trimmed_student(student: Student, recipe: Recipe, out: Path) -> Student:
    """What a finished run measured against: the trimmed student, or the student itself."""
    return student if recipe.trimming is None else CheckpointStudent(out / _STAGE)


def what_trimming_did(recipe: Recipe, out: Path) -> tuple[str, ...]:
    """A line for the report of a finished run; none where nothing was trimmed."""
    if recipe.trimming is None:
        return ()
    record = msgspec.json.decode((out / _STAGE / _RECORD_FILE).read_bytes(), type=TrimRecord)
    return (f"{_in_words(record)}. All that follows is measured against the student with that vocabulary",)


def _make(student: Student, step: TrimVocabulary, recipe: Recipe, working: Path) -> None:
    from edgepress.compress.prune.trim import bits_per_byte, choose_tokens, count_tokens, cut_pieces, write_model

    with brief_waits():
        pieces = Counter(cut_pieces(_texts(student, step, recipe), min(_PIECE_BYTES, student.spec.context - 2)))
        if len(pieces) < 2:
            raise InputError(
                "trim_vocabulary: the text is too short, or too much alike, to choose by one part and judge by another"
            )
        held_out = list(pieces)[_EVERY - 1 :: _EVERY] or list(pieces)[-1:]
        others = {piece: times for piece, times in pieces.items() if piece not in set(held_out)}
        write_model(student, choose_tokens(student, step, others), working, name=student.name)
        keep_pre_tokenizer(student, working)
        trimmed, judged = CheckpointStudent(working), _spread(held_out)
        record = TrimRecord(
            vocabulary=(student.spec.vocab, trimmed.spec.vocab),
            parameters=(student.parameters, trimmed.parameters),
            tokens=(count_tokens(student, held_out), count_tokens(trimmed, held_out)),
            bits_per_byte=(bits_per_byte(student, judged), bits_per_byte(trimmed, judged)),
        )
    (working / _RECORD_FILE).write_bytes(msgspec.json.encode(record))
    say(_in_words(record))


def _spread(pieces: list[str]) -> list[str]:
    """As many pieces as are judged by, from all over the text."""
    places = np.unique(np.linspace(0, len(pieces) - 1, _JUDGING_PIECES).astype(int))
    return [pieces[place] for place in places]


def _texts(student: Student, step: TrimVocabulary, recipe: Recipe) -> list[str]:
    if step.files:
        return [read_text(Path(name)) for name in step.files]
    codec = TextCodec(student.tokenizer_dir)
    return [codec.decode(window) for window in calibration_windows(student, recipe.calibration).tolist()]


def _files_digest(step: TrimVocabulary) -> str:
    from edgepress.compress.distill.text import text_digest

    return text_digest(step.files)


def _in_words(record: TrimRecord) -> str:
    (rows, fewer), (whole, smaller) = record.vocabulary, record.parameters
    (tokens, more), (bits, worse) = record.tokens, record.bits_per_byte
    return (
        f"trim_vocabulary: {rows:,} → {fewer:,} tokens, {whole / 1e6:.1f} M → {smaller / 1e6:.1f} M parameters; text "
        f"held out takes {more / tokens:.3f} × as many tokens and {significant(bits)} → {significant(worse)} bits per "
        "byte"
    )

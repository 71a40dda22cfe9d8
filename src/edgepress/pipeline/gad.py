"""``edgepress gad``: a student and a black-box teacher's answers become a student, a Hugging Face directory.

Its files are written when the training is done, as those of ``edgepress distill``. Until then the output directory
holds the states of warm-up and training alone, out of sight.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgepress.artifact.files import write_atomically
from edgepress.artifact.manifest import MANIFEST_FILE
from edgepress.benchmarks.gad_record import GAD_RECORD_FILE, GadRecord
from edgepress.benchmarks.report.gad import write_gad_report
from edgepress.benchmarks.training_record import SPEED_FILE
from edgepress.compress.distill.gad.pairs import Pair, check_held_out, read_pairs, split
from edgepress.compress.distill.text import text_digest
from edgepress.compress.openmp import brief_waits
from edgepress.compress.student.student import Student
from edgepress.errors import require
from edgepress.pipeline.distilled_student import finished_record, lineage_of, tidy, write_trained
from edgepress.pipeline.gad_job import GadJob
from edgepress.pipeline.own_output import check_own_output
from edgepress.pipeline.stages import Output, stage_key
from edgepress.progress import say
from edgepress.runtime.text import TextCodec

_VERSION = 1


def gad(student: Student, job: GadJob, out: Path) -> GadRecord:
    """Train a student against a discriminator and write it to ``out``; goes on where a killed run left off.

    Args:
        student: where to start.
        job: what else is to be done.
        out: output directory.

    Raises:
        InputError: the answers cannot be used, or ``out`` is another's.
        MissingExtraError: what draws the report is not installed.
        EdgepressError: the training diverged.
    """
    for drawn_by in ("jinja2", "plotly"):  # refused now and not after the training
        require(drawn_by, "report")
    check_own_output("gad", out, student.source)
    pairs, held_out = _answers(student, job)
    with brief_waits():
        from edgepress.pipeline.train_against import train_against

        texts = text_digest(job.text), text_digest(job.held_out)
        key = stage_key("gad", _VERSION, student.digest(), job.settings, texts)
        output = Output(out)
        with output.claim("gad"):
            if done := finished_record(out, key, GAD_RECORD_FILE, GadRecord):
                say("student: up to date")
                tidy(out)
                write_gad_report(out)
                return done
            say(f"answers: {len(pairs):,} to train on, {len(held_out):,} held out")
            (out / MANIFEST_FILE).unlink(missing_ok=True)
            trained = train_against(student, job.settings, pairs, held_out, output.training(key))
            write_atomically(out / SPEED_FILE, msgspec.json.format(msgspec.json.encode(trained.speed), indent=2))
            recipe = {"gad": msgspec.to_builtins(job), "calibration": {"files": list(job.text)}}
            lineage = lineage_of(student, recipe, job.text)
            write_trained(student, lineage, key, out, (GAD_RECORD_FILE, trained.record), trained.tensors)
            tidy(out)
            write_gad_report(out)
    return trained.record


def _answers(student: Student, job: GadJob) -> tuple[list[Pair], list[Pair]]:
    """What is trained on, and what is held out."""
    codec, settings = TextCodec(student.tokenizer_dir), job.settings.gad
    pairs = read_pairs(codec, job.text, settings.answer_tokens, student.spec.context)
    if not job.held_out:
        return split(pairs, settings.seed)
    held_out = read_pairs(codec, job.held_out, settings.answer_tokens, student.spec.context)
    check_held_out(pairs, held_out)
    return pairs, held_out

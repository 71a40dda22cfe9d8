"""The files of a distilled student: written whole, listed in a manifest, and recognised when they are there.

They are made out of sight and take their places one by one, ``config.json`` after the weights, so that a directory that
can be opened as a model is one; the manifest and the record of the job come last.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from safetensors.numpy import save_file

from edgepress.artifact.families import FAMILIES
from edgepress.artifact.files import atomic_directory, replace_model, sha256_file, write_atomically
from edgepress.artifact.manifest import MANIFEST_FILE, FileEntry, Lineage, build_manifest, write_manifest
from edgepress.artifact.weights import WeightSource
from edgepress.benchmarks.training_record import RECORD_FILE, SPEED_FILE, TrainingRecord
from edgepress.compress.distill.text import text_digest
from edgepress.compress.quantize.assign import assign_formats
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.quantize.layers import copy_tokenizer
from edgepress.compress.student.hf_directory import HfDirectory
from edgepress.compress.student.student import Student
from edgepress.pipeline.distill_job import Job
from edgepress.pipeline.plan import model_plan
from edgepress.pipeline.run import tool_versions

Kind = TypeVar("Kind")
_DONE = "distill.json"


def write_student(
    teacher: Student | None,
    start: WeightSource,
    job: Job,
    key: str,
    out: Path,
    record: TrainingRecord,
    tensors: dict[str, Any],
) -> None:
    """Write the student's files into ``out``, and last the manifest and the record that they are done."""
    origin = teacher or start
    assert isinstance(origin, Student)  # slices of a teacher have one
    recipe = {
        "distill": msgspec.to_builtins(job),
        "student": start.source if isinstance(start, Student) else None,
        "calibration": {"files": list(job.text)},
    }
    write_trained(start, lineage_of(origin, recipe, job.text), key, out, (RECORD_FILE, record), tensors)


def write_trained(
    start: WeightSource, lineage: Lineage, key: str, out: Path, record: tuple[str, object], tensors: dict[str, Any]
) -> None:
    """Write a trained model's files into ``out``, and last the manifest and the record that they are done.

    Args:
        start: the model before its training: configuration and tokenizer.
        lineage: for the manifest.
        key: of the job.
        out: output directory.
        record: name and content of the file that tells the course of the training.
        tensors: the weights, float32.
    """
    with atomic_directory(out / ".edgepress" / "student") as working:
        write_model(start, tensors, working)
        (working / record[0]).write_bytes(_json(record[1]))
    made = out / ".edgepress" / "student"
    names = replace_model(made, out, (entry.path for entry in _earlier(out)))
    entries = tuple(
        FileEntry(path=name, bytes=(out / name).stat().st_size, sha256=sha256_file(out / name))
        for name in sorted(names)
    )
    student = HfDirectory(out)
    plan = model_plan(student, assign_formats(student, QuantizeStep(solver="nearest", format="f32"), {}))
    write_manifest(build_manifest(plan, lineage, (), entries), out)
    write_atomically(out / ".edgepress" / _DONE, msgspec.json.encode(_Done(key, entries)))


def write_model(start: WeightSource, tensors: dict[str, Any], directory: Path) -> None:
    """Weights, tokenizer and ``config.json`` into an existing directory; the tensors are those of ``start``'s shape."""
    config = dict(start.config) | {
        "architectures": start.config.get("architectures") or [FAMILIES[start.spec.family].architectures[0]],
        "tie_word_embeddings": start.spec.tied,
        "dtype": "float32",
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    copy_tokenizer(start.tokenizer_dir, directory)
    (directory / "config.json").write_bytes(_json(config))


def tidy(out: Path) -> None:
    """Remove what a finished student has no more use for, of runs with other settings as well."""
    hidden = out / ".edgepress"
    for left in (*hidden.glob("training-*"), hidden / "student"):
        shutil.rmtree(left, ignore_errors=True)
    for left in (*out.glob(".*.partial"), *(out / SPEED_FILE).parent.glob(".*.partial")):
        left.unlink()


def lineage_of(origin: Student, recipe: dict[str, Any], text: tuple[str, ...]) -> Lineage:
    """Where a trained model comes from: the model that it learned from or began as, and its text."""
    return Lineage(
        student=origin.name,
        student_source=origin.source,
        student_digest=origin.digest(),
        student_stored_types={},
        student_notes=origin.notes,
        recipe=recipe,
        calibration_digest=text_digest(text),
        tools=tool_versions(),
    )


class _Done(msgspec.Struct, frozen=True):
    key: str
    files: tuple[FileEntry, ...]


def _earlier(out: Path) -> tuple[FileEntry, ...]:
    """The files of the model that was made here last, if any."""
    try:
        return msgspec.json.decode((out / ".edgepress" / _DONE).read_bytes(), type=_Done).files
    except (OSError, msgspec.DecodeError):
        return ()


def finished(out: Path, key: str) -> TrainingRecord | None:
    """The record of a student that is there, whole, and was made by the same job."""
    return finished_record(out, key, RECORD_FILE, TrainingRecord)


def finished_record(out: Path, key: str, name: str, kind: type[Kind]) -> Kind | None:
    """The same of any record: its file's name and what it holds."""
    try:
        done = msgspec.json.decode((out / ".edgepress" / _DONE).read_bytes(), type=_Done)
        whole = all(sha256_file(out / entry.path) == entry.sha256 for entry in done.files)
        if done.key == key and whole and (out / MANIFEST_FILE).is_file():
            return msgspec.json.decode((out / name).read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        pass
    return None


def _json(document: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"

"""The files of a distilled student: written whole, listed in a manifest, and recognised when they are there.

They are made out of sight and take their places one by one, ``config.json`` after the weights, so that a directory that
can be opened as a model is one; the manifest and the record of the job come last.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
from safetensors.numpy import save_file

from edgepress.artifact.families import FAMILIES
from edgepress.artifact.files import atomic_directory, sha256_file, write_atomically
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

_DONE = "distill.json"


def write_student(
    teacher: Student,
    start: WeightSource,
    job: Job,
    key: str,
    out: Path,
    record: TrainingRecord,
    tensors: dict[str, Any],
) -> None:
    """Write the student's files into ``out``, and last the manifest and the record that they are done."""
    with atomic_directory(out / ".edgepress" / "student") as working:
        write_model(start, tensors, working)
        (working / RECORD_FILE).write_bytes(_json(record))
    made = out / ".edgepress" / "student"
    names = sorted((path.name for path in made.iterdir()), key=lambda name: (name == "config.json", name))
    for name in names:
        shutil.copyfile(made / name, out / f".{name}.partial")
        (out / f".{name}.partial").replace(out / name)
    entries = tuple(
        FileEntry(path=name, bytes=(out / name).stat().st_size, sha256=sha256_file(out / name))
        for name in sorted(names)
    )
    _manifest(teacher, start, job, out, entries)
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


def _manifest(teacher: Student, start: WeightSource, job: Job, out: Path, entries: tuple[FileEntry, ...]) -> None:
    student = HfDirectory(out)
    lineage = Lineage(
        student=teacher.name,
        student_source=teacher.source,
        student_digest=teacher.digest(),
        student_stored_types={},
        student_notes=teacher.notes,
        recipe={
            "distill": msgspec.to_builtins(job),
            "student": start.source if isinstance(start, Student) else None,
            "calibration": {"files": list(job.text)},
        },
        calibration_digest=text_digest(job.text),
        tools=tool_versions(),
    )
    plan = model_plan(student, assign_formats(student, QuantizeStep(solver="nearest", format="f32"), {}))
    write_manifest(build_manifest(plan, lineage, (), entries), out)


class _Done(msgspec.Struct, frozen=True):
    key: str
    files: tuple[FileEntry, ...]


def finished(out: Path, key: str) -> TrainingRecord | None:
    """The record of a student that is there, whole, and was made by the same job."""
    try:
        done = msgspec.json.decode((out / ".edgepress" / _DONE).read_bytes(), type=_Done)
        whole = all(sha256_file(out / entry.path) == entry.sha256 for entry in done.files)
        if done.key == key and whole and (out / MANIFEST_FILE).is_file():
            return msgspec.json.decode((out / RECORD_FILE).read_bytes(), type=TrainingRecord)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        pass
    return None


def _json(document: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"

"""``edgepress distill``: a teacher and text become a student, a Hugging Face directory that every command takes.

The student's files are written when the training is done, ``config.json`` after the weights, the manifest last. Until
then the output directory holds the state of the training alone, out of sight.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import yaml
from safetensors.numpy import save_file

from edgepress.artifact.families import FAMILIES
from edgepress.artifact.files import atomic_directory, sha256_file, write_atomically
from edgepress.artifact.manifest import MANIFEST_FILE, FileEntry, Lineage, build_manifest, write_manifest
from edgepress.artifact.weights import WeightSource
from edgepress.compress.distill.config import Loss, Training, check_loss
from edgepress.compress.distill.smaller import Layers, read_sizes, smaller_size
from edgepress.compress.distill.text import Text, held_out_windows, read_windows, split, text_digest
from edgepress.compress.openmp import brief_waits
from edgepress.compress.quantize.assign import assign_formats
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.quantize.layers import copy_tokenizer
from edgepress.compress.student.hf_directory import HfDirectory
from edgepress.compress.student.student import Student
from edgepress.errors import InputError
from edgepress.pipeline.plan import model_plan
from edgepress.pipeline.run import tool_versions
from edgepress.pipeline.stages import Output, stage_key
from edgepress.progress import say
from edgepress.runtime.text import TextCodec

RECORD_FILE = "distillation.json"
_DONE = "distill.json"
_CALIBRATION_WINDOWS = 32
_VERSION = 1
Select = Literal["importance", "uniform", "random"]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A settings file: what counts and how it is trained."""

    loss: Loss = Loss()
    train: Training = Training()


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done, apart from the models.

    text       files to train on
    held_out   files to judge by; without any a part of ``text`` is set aside
    settings   loss and training
    sizes      of a student that starts from the teacher; None where a student is given
    select     its weights: the teacher's most important or evenly spaced channels, or random numbers
    layers     of the teacher that it starts from
    """

    text: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    settings: Settings = Settings()
    sizes: dict[str, Any] | None = None
    select: Select = "importance"
    layers: Layers = "uniform"


class Check(msgspec.Struct, frozen=True):
    """The held-out divergence in nats per token, after some tokens."""

    tokens: int
    held_out_kl: float


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What a distillation brought; in ``distillation.json``.

    losses   of each step, nats per learned token
    checks   held-out divergences; the first is the start's, the student is that of the smallest
    """

    parameters: int
    training_tokens: int
    step_tokens: int
    held_out_tokens: int
    losses: tuple[float, ...]
    checks: tuple[Check, ...]

    @property
    def best(self) -> Check:
        """The check that the student is from."""
        return min(self.checks, key=lambda check: check.held_out_kl)


def read_settings(path: Path) -> Settings:
    """Settings from a YAML file.

    Raises:
        InputError: it cannot be read, is not YAML, or a field does not exist or has a wrong value.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        return msgspec.convert(document or {}, Settings)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}") from error


def read_start(path: Path) -> dict[str, Any]:
    """The sizes of a student from a JSON file.

    Raises:
        InputError: it cannot be read or is no JSON object.
    """
    try:
        return read_sizes(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def select_named(name: str) -> Select:
    """A way of selecting weights by its name.

    Raises:
        InputError: there is none of that name.
    """
    for way in get_args(Select):
        if name == way:
            found: Select = way
            return found
    raise InputError(f"--select {name!r}: unknown; known: {', '.join(get_args(Select))}")


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
            if done := _finished(out, key):
                say("student: up to date")
                _tidy(out)
                return done
            say(f"text: {train.tokens.size:,} tokens to train on, {held_out.tokens.size:,} held out")
            (out / MANIFEST_FILE).unlink(missing_ok=True)
            state = out / ".edgepress" / f"training-{key[:16]}"
            record, tensors = _train(teacher, start, job, train, held_out, state)
            _write(teacher, start, job, key, out, record, tensors)
            _tidy(out)
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


def _write(
    teacher: Student, start: WeightSource, job: Job, key: str, out: Path, record: Record, tensors: dict[str, Any]
) -> None:
    """Write the student's files into ``out``, and last the manifest and the record that they are done."""
    config = dict(start.config) | {
        "architectures": start.config.get("architectures") or [FAMILIES[start.spec.family].architectures[0]],
        "tie_word_embeddings": start.spec.tied,
        "dtype": "float32",
    }
    with atomic_directory(out / ".edgepress" / "student") as working:
        save_file(tensors, working / "model.safetensors", metadata={"format": "pt"})
        copy_tokenizer(start.tokenizer_dir, working)
        (working / RECORD_FILE).write_bytes(_json(record))
        (working / "config.json").write_bytes(_json(config))
    made = out / ".edgepress" / "student"
    names = sorted((path.name for path in made.iterdir()), key=lambda name: (name == "config.json", name))
    for name in names:
        shutil.copyfile(made / name, out / f".{name}.partial")
        (out / f".{name}.partial").replace(out / name)
    entries = tuple(
        FileEntry(path=name, bytes=(out / name).stat().st_size, sha256=sha256_file(out / name))
        for name in sorted(names)
    )
    _manifest(teacher, job, out, entries)
    write_atomically(out / ".edgepress" / _DONE, msgspec.json.encode(_Done(key, entries)))


def _tidy(out: Path) -> None:
    """Remove what a finished student has no more use for, of runs with other settings as well."""
    hidden = out / ".edgepress"
    for left in (*hidden.glob("training-*"), hidden / "student"):
        shutil.rmtree(left, ignore_errors=True)
    for left in out.glob(".*.partial"):
        left.unlink()


def _manifest(teacher: Student, job: Job, out: Path, entries: tuple[FileEntry, ...]) -> None:
    student = HfDirectory(out)
    lineage = Lineage(
        student=teacher.name,
        student_source=teacher.source,
        student_digest=teacher.digest(),
        student_stored_types={},
        student_notes=teacher.notes,
        recipe={"distill": msgspec.to_builtins(job), "calibration": {"files": list(job.text)}},
        calibration_digest=text_digest(job.text),
        tools=tool_versions(),
    )
    plan = model_plan(student, assign_formats(student, QuantizeStep(solver="nearest", format="f32"), {}))
    write_manifest(build_manifest(plan, lineage, (), entries), out)


class _Done(msgspec.Struct, frozen=True):
    key: str
    files: tuple[FileEntry, ...]


def _finished(out: Path, key: str) -> Record | None:
    """The record of a student that is there, whole, and was made by the same job."""
    try:
        done = msgspec.json.decode((out / ".edgepress" / _DONE).read_bytes(), type=_Done)
        whole = all(sha256_file(out / entry.path) == entry.sha256 for entry in done.files)
        if done.key == key and whole and (out / MANIFEST_FILE).is_file():
            return msgspec.json.decode((out / RECORD_FILE).read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        pass
    return None


def _json(document: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"

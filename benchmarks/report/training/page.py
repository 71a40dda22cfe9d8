"""The page of a distillation: what the student is, how it came about, and what it takes to get there again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from edgepress import __version__
from edgepress.artifact.files import write_atomically
from edgepress.artifact.manifest import Manifest, read_manifest
from edgepress.benchmarks.report.fill import fill
from edgepress.benchmarks.report.machine import machine_facts
from edgepress.benchmarks.report.numerals import megabytes_column, rate, significant, whole
from edgepress.benchmarks.report.reproduce import identity_facts
from edgepress.benchmarks.report.tables import Row, Table
from edgepress.benchmarks.report.training.figures import COLOUR, held_out_curve, loss_curve
from edgepress.benchmarks.training_record import RECORD_FILE, SPEED_FILE, ModelSize, TrainingRecord, TrainingSpeed
from edgepress.errors import InputError

REPORT_FILE = "report.html"
JUDGES = {
    "kl": "Mean KL divergence from the teacher over the whole vocabulary",
    "cross_entropy": "Mean cross-entropy with the text's own tokens",
}
Kind = TypeVar("Kind")


def write_training_report(out: Path) -> Path:
    """Write ``out/report.html`` from the records in ``out``.

    Raises:
        InputError: a record is missing or damaged; names the file.
        MissingExtraError: plotly or jinja2 is not installed.
    """
    manifest, record = read_manifest(out), _read(out / RECORD_FILE, TrainingRecord)
    speed = _read(out / SPEED_FILE, TrainingSpeed) if (out / SPEED_FILE).is_file() else None
    figures = {"held-out": held_out_curve(record)}
    if record.losses:
        figures["loss"] = loss_curve(record)
    page = fill("training.html", _texts(manifest, record, speed), figures)
    write_atomically(out / REPORT_FILE, page)
    return out / REPORT_FILE


def _texts(manifest: Manifest, record: TrainingRecord, speed: TrainingSpeed | None) -> dict[str, Any]:
    recipe = manifest.lineage.recipe
    return {
        "version": __version__,
        "colour": COLOUR,
        "title": manifest.name,
        "origin": origin(manifest, record),
        "headline": headline(record),
        "sizes": sizes_table(manifest, record),
        "course": course_facts(record, speed),
        "speed": speed,
        "chosen": record.kept == "best",
        "judged_by": JUDGES[record.judge],
        "has_teacher": record.teacher is not None,
        "texts": recipe["distill"]["text"],
        "held_out": recipe["distill"]["held_out"],
        "settings": yaml.safe_dump(recipe["distill"]["settings"], sort_keys=False).rstrip(),
        "start": yaml.safe_dump(recipe["distill"]["sizes"]).rstrip() if recipe["distill"]["sizes"] else "",
        "command": command_line(manifest, record),
        "identity": identity_facts(manifest),
        "machine": machine_facts(speed.machine) if speed else (),
        "files": manifest.files,
    }


def origin(manifest: Manifest, record: TrainingRecord) -> str:
    """Where the student comes from."""
    if record.teacher is None:
        return f"trained on text, without a teacher's weights; began as {record.start}"
    return f"distilled from {manifest.lineage.student}; began as {record.start}"


def headline(record: TrainingRecord) -> str:
    """What came of it, in a sentence."""
    best, first = record.taken, record.checks[0]
    size = f"{record.student.parameters / 1e6:.3g} M parameters"
    if record.teacher is not None:
        size += f", {100 * record.student.parameters / record.teacher.parameters:.0f} % of the teacher's"
    if best == first:
        return f"{size}; training brought nothing, the student is as it began."
    what = "it diverges from the teacher by" if record.judge == "kl" else "its cross-entropy is"
    return (
        f"{size}. On text held out {what} {significant(best.held_out)} nats per token, "
        f"{significant(first.held_out)} before the training."
    )


def sizes_table(manifest: Manifest, record: TrainingRecord) -> Table:
    """Teacher, where there is one, and student side by side."""
    models = [(f"teacher: {manifest.lineage.student}", record.teacher)] if record.teacher is not None else []
    models = [*models, (f"student: {manifest.name}", record.student)]
    bytes_each = megabytes_column([2 * model.parameters for _, model in models])
    rows = [
        Row(name=label, cells=(whole(model.parameters), size, *_shape(model)))
        for (label, model), size in zip(models, bytes_each, strict=True)
    ]
    head = ("", "parameters", "MB at 16 bits", "layers", "width", "feed-forward")
    return Table(id="sizes-table", head=head, rows=tuple(rows))


def _shape(model: ModelSize) -> tuple[str, str, str]:
    return whole(model.layers), whole(model.hidden), whole(model.ffn)


def course_facts(record: TrainingRecord, speed: TrainingSpeed | None) -> tuple[tuple[str, str], ...]:
    """The training in numbers."""
    passes = record.training_tokens / record.text_tokens
    facts = [
        ("trained on", f"{whole(record.training_tokens)} tokens, {passes:.2f} times {whole(record.text_tokens)}"),
        ("steps", f"{whole(len(record.losses))} of {whole(record.step_tokens)} tokens"),
        ("held out", f"{whole(record.held_out_tokens)} learned tokens"),
        (
            "the student",
            f"the state after {whole(record.taken.tokens)} tokens, {record.kept} of {len(record.checks)} checks",
        ),
    ]
    if speed:
        facts.append(
            ("speed", f"{rate(speed.tokens_per_s)} tokens/s, {significant(speed.seconds)} s, {_on_what(speed)}")
        )
    return tuple(facts)


def _on_what(speed: TrainingSpeed) -> str:
    each = f"{speed.threads} thread{'s' if speed.threads > 1 else ''}" if speed.device == "cpu" else speed.device
    return each if speed.processes == 1 else f"{speed.processes} processes with {each} each"


def command_line(manifest: Manifest, record: TrainingRecord) -> str:
    """The command, for a shell in which ``settings.yaml`` and ``sizes.json`` hold what the page shows."""
    job = manifest.lineage.recipe["distill"]
    named = [("--teacher", manifest.lineage.student_source)] if record.teacher is not None else []
    if job["sizes"]:
        named += [("--start", "sizes.json"), ("--select", job["select"])]
    else:
        named += [("--student", manifest.lineage.recipe["student"])]
    named += [("--text", name) for name in job["text"]] + [("--held-out", name) for name in job["held_out"]]
    options = [f"{option} {shlex.quote(str(value))}" for option, value in (*named, ("--settings", "settings.yaml"))]
    return " ".join(["edgepress distill", *options, "-o OUT"])


def _read(path: Path, kind: type[Kind]) -> Kind:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(f"{path}: not a record that this version can read ({error}); distil again") from error

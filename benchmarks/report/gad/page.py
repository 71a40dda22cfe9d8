"""The page of a training against a discriminator: what it brought, its course, and what it takes to get there again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from edgepress import __version__
from edgepress.artifact.files import write_atomically
from edgepress.artifact.manifest import Manifest, read_manifest
from edgepress.benchmarks.gad_record import GAD_RECORD_FILE, GadCheck, GadRecord
from edgepress.benchmarks.report.figures.theme import Figure
from edgepress.benchmarks.report.fill import fill
from edgepress.benchmarks.report.gad.figures import (
    OTHER,
    accuracy_curve,
    diversity_curve,
    kl_curve,
    reward_curve,
    win_rate_curve,
)
from edgepress.benchmarks.report.machine import machine_facts
from edgepress.benchmarks.report.numerals import plus_minus, rate, significant, whole
from edgepress.benchmarks.report.reproduce import identity_facts
from edgepress.benchmarks.report.tables import NONE, Row, Table
from edgepress.benchmarks.report.training.figures import COLOUR
from edgepress.benchmarks.training_record import SPEED_FILE, TrainingSpeed
from edgepress.errors import InputError

REPORT_FILE = "report.html"
Kind = TypeVar("Kind")


def write_gad_report(out: Path) -> Path:
    """Write ``out/report.html`` from the records in ``out``.

    Raises:
        InputError: a record is missing or damaged; names the file.
        MissingExtraError: plotly or jinja2 is not installed.
    """
    manifest, record = read_manifest(out), _read(out / GAD_RECORD_FILE, GadRecord)
    speed = _read(out / SPEED_FILE, TrainingSpeed) if (out / SPEED_FILE).is_file() else None
    write_atomically(out / REPORT_FILE, fill("gad.html", _texts(manifest, record, speed), _figures(record)))
    return out / REPORT_FILE


def _figures(record: GadRecord) -> dict[str, Figure]:
    found = {"win-rate": win_rate_curve(record)}
    if record.steps:
        found |= {"accuracy": accuracy_curve(record), "reward": reward_curve(record)}
        if record.steps[-1].kl is not None:
            found["kl"] = kl_curve(record)
        found["diversity"] = diversity_curve(record)
    return found


def _texts(manifest: Manifest, record: GadRecord, speed: TrainingSpeed | None) -> dict[str, Any]:
    job = manifest.lineage.recipe["gad"]
    return {
        "version": __version__,
        "colours": {"distinct": COLOUR, "alike": OTHER},
        "title": manifest.name,
        "origin": f"began as {manifest.lineage.student}; learned from answers alone",
        "headline": headline(record),
        "course": course_facts(record, speed),
        "checks": checks_table(record),
        "endings": record.endings,
        "texts": job["text"],
        "held_out": job["held_out"],
        "settings": yaml.safe_dump(job["settings"], sort_keys=False).rstrip(),
        "command": command_line(manifest),
        "identity": identity_facts(manifest),
        "machine": machine_facts(speed.machine) if speed else (),
        "files": manifest.files,
    }


def headline(record: GadRecord) -> str:
    """What came of it, in a sentence."""
    first, kept = record.checks[0], record.kept
    if kept is first:
        return (
            f"A judge took {_percent(first)} % of the answers for the teacher's before the adversarial training, and "
            "no more after it: the student is as the warm-up left it."
        )
    return (
        f"A judge takes {_percent(kept)} % of the student's answers for the teacher's, {_percent(first)} % before the "
        "adversarial training; 50 % is all that is to be had."
    )


def _percent(check: GadCheck) -> str:
    return plus_minus(check.win_rate, check.win_rate_se, 100)


def course_facts(record: GadRecord, speed: TrainingSpeed | None) -> tuple[tuple[str, str], ...]:
    """The training in numbers."""
    alone, kept = min(record.discriminator_steps, len(record.steps)), record.kept
    facts = [
        ("the teacher's answers", f"{whole(record.answers)}, {whole(record.answer_tokens)} tokens"),
        ("held out", f"{whole(record.held_out_answers)} answers; half of them teach the judge, half are judged by"),
    ]
    if warm := record.warm_up:
        course = f"{significant(warm.before)} → {significant(warm.after)} nats per token of held-out answers"
        facts.append(("warm-up", f"{whole(warm.steps)} steps, cross-entropy {course}"))
    facts += [
        ("steps", f"{whole(alone)} of the discriminator alone, {whole(len(record.steps) - alone)} of both"),
        ("written by the student", f"{whole(record.written_tokens)} tokens"),
        ("the student", f"the state after step {whole(kept.step)}, best of {len(record.checks)} checks"),
    ]
    if speed:
        threads = f"{speed.threads} thread{'s' if speed.threads > 1 else ''}"
        took = f"{rate(speed.tokens_per_s)} written tokens/s, {significant(speed.seconds)} s, {threads}"
        facts.append(("speed", took))
    return tuple(facts)


def checks_table(record: GadRecord) -> Table:
    """Every check in a row."""
    rows = [
        Row(
            name=f"after step {whole(check.step)}",
            cells=(
                plus_minus(check.win_rate, check.win_rate_se),
                f"{check.accuracy:.3f}",
                NONE if check.reward is None else significant(check.reward),
                f"{check.distinct:.3f}",
                f"{check.self_bleu:.3f}",
                f"{check.unfinished:.3f}",
                significant(check.cross_entropy, 4),
            ),
        )
        for check in record.checks
    ]
    head = (
        "",
        "judge's win rate",
        "discriminator's accuracy",
        "reward since",
        "distinct bigrams",
        "self-BLEU",
        "unfinished",
        "cross-entropy, nats per token",
    )
    return Table(id="checks-table", head=head, rows=tuple(rows))


def command_line(manifest: Manifest) -> str:
    """The command, for a shell in which ``gad.yaml`` holds what the page shows."""
    job = manifest.lineage.recipe["gad"]
    named = [("--student", manifest.lineage.student_source)]
    named += [("--text", name) for name in job["text"]] + [("--held-out", name) for name in job["held_out"]]
    options = [f"{option} {shlex.quote(str(value))}" for option, value in (*named, ("--settings", "gad.yaml"))]
    return " ".join(["edgepress gad", *options, "-o OUT"])


def _read(path: Path, kind: type[Kind]) -> Kind:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(f"{path}: not a record that this version can read ({error}); train again") from error

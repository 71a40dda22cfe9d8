"""The page of a classifier: how well it tells labels, what it costs beside its teacher, how to get there again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from edgepress import __version__
from edgepress.artifact.files import write_atomically
from edgepress.benchmarks.classification import Scores
from edgepress.benchmarks.label_record import CLASSIFIER_FILE, COST_FILE, ClassifierRecord, Cost, CostRecord
from edgepress.benchmarks.report.classifier.figures import COLOURS, calibration_figure, confusion_figure, course_figure
from edgepress.benchmarks.report.fill import fill
from edgepress.benchmarks.report.machine import machine_facts
from edgepress.benchmarks.report.numerals import megabytes_column, milliseconds, plus_minus, significant, whole
from edgepress.benchmarks.report.tables import NONE, Row, Table
from edgepress.errors import InputError
from edgepress.runtime.environment import Machine

REPORT_FILE = "report.html"
Kind = TypeVar("Kind")
_NAMES = {
    "majority": "the commonest label for all",
    "uncalibrated": "teacher, uncalibrated",
    "teacher": "teacher",
    "student": "student",
}


def write_classifier_report(out: Path) -> Path:
    """Write ``out/report.html`` from the records in ``out``.

    Raises:
        InputError: a record is missing or damaged; names the file.
        MissingExtraError: plotly or jinja2 is not installed.
    """
    record, cost = _read(out / CLASSIFIER_FILE, ClassifierRecord), _read(out / COST_FILE, CostRecord)
    figures = {"course": course_figure(record)}
    if record.gold:
        figures |= {"calibration": calibration_figure(record.gold)}
        shown = [name for name in ("student", "teacher") if name in record.gold]
        figures |= {f"confusion-{name}": confusion_figure(record.gold[name], record.labels) for name in shown}
    page = fill("classifier.html", _texts(out, record, cost), figures)
    write_atomically(out / REPORT_FILE, page)
    return out / REPORT_FILE


def _texts(out: Path, record: ClassifierRecord, cost: CostRecord) -> dict[str, Any]:
    return {
        "version": __version__,
        "title": out.resolve().name,
        "origin": f"{record.architecture} from {record.start}"
        + (f"; labels by {record.teacher}" if record.teacher else ""),
        "headline": headline(record),
        "quality": quality_table(record),
        "cost": cost_table(record, cost),
        "course": course_facts(record, cost),
        "legend": [(_NAMES[name], colour) for name, colour in COLOURS.items() if name in record.gold],
        "settings": yaml.safe_dump(record.settings, sort_keys=False).rstrip(),
        "command": command_line(record),
        "machine": machine_facts(msgspec.convert(cost.machine, Machine)),
        "in_gold": record.in_gold,
    }


def headline(record: ClassifierRecord) -> str:
    """What came of it, in a sentence or two."""
    agrees = f"On held-out texts it gives their label in {_percent(record.agreement, record.agreement_se)} % of cases."
    if not record.gold:
        return agrees
    student = record.gold["student"]
    right = f"{_percent(student.accuracy, student.accuracy_se)} % of {whole(student.texts)} gold labels are right"
    if record.apart is None:
        return f"{right}. {agrees}"
    teacher = record.gold["teacher"]
    return f"{right}; its teacher has {_percent(teacher.accuracy, teacher.accuracy_se)} %. {agrees}"


def quality_table(record: ClassifierRecord) -> Table:
    """Accuracy, macro-F1 and calibration on gold labels, of both models and of baselines."""
    rows = [
        Row(name=_NAMES[name], colour=COLOURS.get(name, ""), cells=_quality_cells(scores))
        for name, scores in record.gold.items()
    ]
    return Table(id="quality-table", head=("", "accuracy, %", "macro-F1", "ECE", "texts"), rows=tuple(rows))


def _quality_cells(scores: Scores) -> tuple[str, ...]:
    return (
        _percent(scores.accuracy, scores.accuracy_se),
        plus_minus(scores.macro_f1, scores.macro_f1_se),
        NONE if scores.ece is None else f"{scores.ece:.3f}",
        whole(scores.texts),
    )


def cost_table(record: ClassifierRecord, cost: CostRecord) -> Table:
    """Teacher and student side by side, one text at a time."""
    models: list[tuple[str, Cost]] = [("student", cost.student)]
    if cost.teacher:
        models.insert(0, (f"teacher: {record.teacher or ''}", cost.teacher))
    weights = megabytes_column([each.weight_bytes for _, each in models])
    memory = megabytes_column([each.peak_rss_bytes for _, each in models])
    rows = [
        Row(
            name=name,
            cells=(
                milliseconds(each.ms_per_text),
                NONE if each.parameters is None else whole(each.parameters),
                weights[place],
                memory[place],
                f"{each.engine}, {each.threads} thread{'s' if each.threads > 1 else ''}",
            ),
        )
        for place, (name, each) in enumerate(models)
    ]
    head = ("", "ms per text", "parameters", "MB of weights", "MB peak of the process", "computed by")
    return Table(id="cost-table", head=head, rows=tuple(rows))


def course_facts(record: ClassifierRecord, cost: CostRecord) -> tuple[tuple[str, str], ...]:
    """The training in numbers."""
    facts = [
        ("trained on", f"{whole(record.trained_on)} texts, {record.settings['targets']} labels"),
        ("held out", f"{whole(record.held_out)} texts"),
        ("head", f"ridge {record.ridge:g}"),
        ("steps", whole(len(record.losses)) if record.losses else "none: the head alone"),
        ("the student", f"held-out divergence {significant(record.taken.held_out_kl)} nats"),
        ("took", f"{significant(cost.training_s)} s"),
    ]
    if record.apart:
        facts.append(("student minus teacher", f"{plus_minus(*record.apart, 100)} points of accuracy, same texts"))
    return tuple(facts)


def command_line(record: ClassifierRecord) -> str:
    """The command, for a shell in which ``settings.yaml`` holds what the page shows."""
    named = [("--student", record.student), ("--text", record.files[0])]
    named += [("--gold", name) for name in record.files[1:]]
    options = [f"{option} {shlex.quote(value)}" for option, value in (*named, ("--settings", "settings.yaml"))]
    return " ".join(["edgepress classifier", *options, "-o OUT"])


def _percent(value: float, error: float) -> str:
    return plus_minus(value, error, 100)


def _read(path: Path, kind: type[Kind]) -> Kind:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(f"{path}: not a record that this version can read ({error}); train again") from error

"""The commands of synthetic labels: label, classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgepress.cli.app import Engine, Json, app, print_json
from edgepress.cli.tables import print_rows
from edgepress.compress.bounds import MOST_SEED

Gold = Annotated[
    Path | None, typer.Option("--gold", help="JSONL of {text, label} to judge by; nothing learns from it.")
]


@app.command()
def label(
    texts: Annotated[Path, typer.Argument(metavar="TEXTS", help="A text a line, or JSONL of {text}.")],
    teacher: Annotated[str, typer.Option("--teacher", "-t", help="The model that labels, named like a STUDENT.")],
    task: Annotated[Path, typer.Option("--task", help="A .yaml with labels, their verbalizers and a template.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="JSONL of {text, label, probabilities}; a record beside it.")
    ],
    gold: Gold = None,
    engine: Engine = None,
    json: Json = False,
) -> None:
    """Label texts with a teacher's calibrated probabilities; torch computes, or an artifact's --engine."""
    from edgepress.compress.labels.task import read_task
    from edgepress.compress.student.open import open_student
    from edgepress.pipeline.label import label as label_texts
    from edgepress.pipeline.label_scores import Teacher
    from edgepress.runtime.locate import choose_model

    asked = read_task(task)
    opened = open_student(teacher)
    model = choose_model(Path(teacher), engine) if engine else None
    record = label_texts(texts, Teacher(opened, model), asked, gold, out)
    if json:
        print_json(record)
        return
    dropped = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in _counts(record.dropped) if count)
    print_rows(
        [
            ("labels", f"{out}  " + ", ".join(f"{name} {count:,}" for name, count in record.kept.items())),
            ("left out", dropped or "none"),
            ("taken off", ", ".join(f"{name} {value:+.2f}" for name, value in record.lean.items()) + " nats"),
            ("teacher", f"{record.cost.ms_per_text:.0f} ms per text, {record.cost.engine}"),
            *(
                (f"gold, {way}", f"accuracy {100 * found.accuracy:.1f} ± {100 * found.accuracy_se:.1f} %")
                for way, found in record.gold.items()
            ),
        ]
    )


def _counts(dropped: msgspec.Struct) -> list[tuple[str, int]]:
    return list(msgspec.structs.asdict(dropped).items())


@app.command()
def classifier(
    student: Annotated[
        str, typer.Option("--student", "-s", help="A Hugging Face directory of an encoder, or a decoder.")
    ],
    text: Annotated[Path, typer.Option("--text", help="JSONL of {text, label, probabilities}.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output directory: the classifier, a Hugging Face model.")],
    gold: Gold = None,
    settings: Annotated[Path | None, typer.Option("--settings", help="A .yaml; see docs/labels.md.")] = None,
    mode: Annotated[
        str | None, typer.Option("--mode", help="head (in seconds) or whole, in place of the settings'.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, max=MOST_SEED, help="In place of the settings'.")] = None,
    json: Json = False,
) -> None:
    """Train a small classifier on labels, above all a teacher's."""
    from edgepress.compress.classify.config import ClassifierSettings, mode_named, read_classifier_settings
    from edgepress.pipeline.classifier import train_classifier
    from edgepress.pipeline.classifier_job import ClassifierJob

    chosen = read_classifier_settings(settings) if settings else ClassifierSettings()
    chosen = msgspec.structs.replace(
        chosen,
        mode=mode_named(mode) if mode is not None else chosen.mode,
        seed=chosen.seed if seed is None else seed,
    )
    record = train_classifier(ClassifierJob(student=student, text=text, gold=gold, settings=chosen), out)
    if json:
        print_json(record)
        return
    print(f"classifier: {out}  {record.architecture}, {record.trained_on:,} texts")
    print(f"agreement with the labels of held-out texts: {_percent(record.agreement, record.agreement_se)}")
    for name, found in record.gold.items():
        print(f"gold, {name}: accuracy {_percent(found.accuracy, found.accuracy_se)}, macro-F1 {found.macro_f1:.3f}")
    print(f"report: {out / 'report.html'}")


def _percent(value: float, error: float) -> str:
    return f"{100 * value:.1f} ± {100 * error:.1f} %"

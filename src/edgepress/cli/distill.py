"""The command that trains: distill."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgepress.cli.app import Json, app, print_json
from edgepress.compress.bounds import MOST_SEED
from edgepress.errors import InputError
from edgepress.huge_pages import in_huge_pages

TeacherName = Annotated[
    str | None,
    typer.Option("--teacher", "-t", help="The model to learn from, named like a STUDENT; default: the text alone."),
]
Texts = Annotated[
    list[str],
    typer.Option(
        "--text", help="Text file, JSONL of {text} or {messages}, or a dataset's folder; may be given more than once."
    ),
]
Sizes = Annotated[
    Path | None, typer.Option("--start", help="JSON of sizes: a smaller student that starts from the teacher.")
]
SelectName = Annotated[
    str, typer.Option("--select", help="What --start takes: importance, uniform or random (numbers, for comparison).")
]
SettingsName = Annotated[
    str | None,
    typer.Option("--settings", help="Shipped settings (small, black_box), or a .yaml with start, loss and train."),
]


@app.command()
def distill(
    text: Texts,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output directory: the student, a Hugging Face model.")],
    teacher: TeacherName = None,
    student: Annotated[str | None, typer.Option("--student", "-s", help="The student to train.")] = None,
    start: Sizes = None,
    select: SelectName = "importance",
    held_out: Annotated[list[str] | None, typer.Option("--held-out", help="Text to judge by.")] = None,
    settings: SettingsName = None,
    tokens: Annotated[int | None, typer.Option("--tokens", min=1, help="Train on this many.")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, max=MOST_SEED, help="Of the order of the text and what is held out.")
    ] = None,
    json: Json = False,
) -> None:
    """Train a student, or heal one, towards a teacher's distributions; or on its words alone."""
    in_huge_pages()
    from edgepress.compress.student.open import open_student
    from edgepress.pipeline import distill_job
    from edgepress.pipeline.distill import distill as train_student

    chosen = distill_job.read_settings(settings) if settings else distill_job.Settings()
    if sum(given is not None for given in (student, start, chosen.start)) != 1:
        raise InputError(
            "give --student, a model to train, or --start, the sizes of one that starts from the teacher, or settings "
            "with a start: one of the three"
        )
    if select != "importance" and student is not None:
        raise InputError(f"--select {select}: says what a start takes of the teacher; --student is trained as it is")
    changes = {name: value for name, value in (("tokens", tokens), ("seed", seed)) if value is not None}
    job = distill_job.Job(
        text=tuple(text),
        held_out=tuple(held_out or ()),
        settings=msgspec.structs.replace(chosen, train=msgspec.structs.replace(chosen.train, **changes)),
        sizes=distill_job.read_start(start) if start else None,
        select=distill_job.select_named(select),
    )
    opened = open_student(teacher) if teacher is not None else None
    record = train_student(opened, open_student(student) if student is not None else None, job, out)
    if record is None:  # another process speaks
        return
    if json:
        print_json(record)
        return
    print(f"student: {out}  {record.student.parameters:,} parameters, {record.training_tokens:,} tokens")
    judged_by = "divergence from the teacher" if record.judge == "kl" else "cross-entropy"
    print(
        f"held-out {judged_by}: {record.checks[0].held_out:.4f} at the start, "
        f"{record.taken.held_out:.4f} after {record.taken.tokens:,} tokens"
    )
    print(f"report: {out / 'report.html'}")

"""The command that trains against a discriminator: gad."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgepress.cli.app import Json, app, print_json
from edgepress.compress.bounds import MOST_SEED
from edgepress.huge_pages import in_huge_pages

Answers = Annotated[
    list[str],
    typer.Option(
        "--text",
        help="JSONL of the teacher's answers: {messages} ending with one, or {prompt, answer}; may be given more than "
        "once.",
    ),
]
HeldOutAnswers = Annotated[
    list[str] | None, typer.Option("--held-out", help="Answers to judge by; without, a part of the text is set aside.")
]
GadSettingsFile = Annotated[
    Path | None, typer.Option("--settings", help="A .yaml with warm_up, gad and guards; see docs/gad.md.")
]


@app.command()
def gad(
    student: Annotated[str, typer.Option("--student", "-s", help="The student to train.")],
    text: Answers,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output directory: the student, a Hugging Face model.")],
    held_out: HeldOutAnswers = None,
    settings: GadSettingsFile = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, max=MOST_SEED, help="Of prompts, samples and what is held out.")
    ] = None,
    json: Json = False,
) -> None:
    """Train a student on a black-box teacher's answers, against a discriminator that tells the two apart."""
    in_huge_pages()
    from edgepress.compress.distill.gad.config import GadSettings
    from edgepress.compress.student.open import open_student
    from edgepress.pipeline.gad import gad as train
    from edgepress.pipeline.gad_job import GadJob, read_gad_settings

    chosen = read_gad_settings(settings) if settings else GadSettings()
    if seed is not None:
        chosen = msgspec.structs.replace(chosen, gad=msgspec.structs.replace(chosen.gad, seed=seed))
    job = GadJob(text=tuple(text), held_out=tuple(held_out or ()), settings=chosen)
    record = train(open_student(student), job, out)
    if json:
        print_json(record)
        return
    first, kept = record.checks[0], record.kept
    print(f"student: {out}  {record.student.parameters:,} parameters, the state after step {kept.step}")
    print(
        f"taken for the teacher by a judge: {first.win_rate:.3f} ± {first.win_rate_se:.3f} of the answers before the "
        f"adversarial training, {kept.win_rate:.3f} ± {kept.win_rate_se:.3f} after it (0.5 is all there is)"
    )
    for ending in record.endings:
        print(f"ended by {ending.guard}: {ending.why}")
    print(f"report: {out / 'report.html'}")

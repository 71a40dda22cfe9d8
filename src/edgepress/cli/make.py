"""Commands that make files: run, compress, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgepress.artifact.tensorrt_layout import TensorrtOptions
from edgepress.cli.app import Json, app, print_json
from edgepress.cli.profiles import ProfileChoice, chosen_profiles
from edgepress.cli.tables import print_plan, print_results
from edgepress.errors import InputError
from edgepress.huge_pages import in_huge_pages
from edgepress.recipe import TARGETS, ExportTarget, load_recipe

StudentName = Annotated[
    str, typer.Argument(metavar="STUDENT", help="Hugging Face directory, .gguf file, hub id or built-in name.")
]
RecipeName = Annotated[str, typer.Option("--recipe", "-r", help="A shipped recipe's name or a YAML file.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Output directory.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan with exact file sizes; write nothing.")]


@app.command()
def run(student: StudentName, recipe: RecipeName, out: Out, dry_run: DryRun = False, json: Json = False) -> None:
    """Everything: compress a student, export it, measure the files, write the report."""
    chosen = load_recipe(recipe)
    if chosen.healing and not dry_run:
        in_huge_pages()
    from edgepress.compress.student.open import open_student
    from edgepress.pipeline.prune import plan_before
    from edgepress.pipeline.run import check_met
    from edgepress.pipeline.whole import run_whole

    opened = open_student(student)
    if dry_run:
        print_plan(opened, plan_before(opened, chosen, chosen.export), json=json)
        return
    results = run_whole(opened, chosen, out)
    if json:
        print_json(results)
    else:
        print_results(results)
    check_met(chosen, out)


@app.command()
def compress(student: StudentName, recipe: RecipeName, out: Out, dry_run: DryRun = False, json: Json = False) -> None:
    """The post-training compression step alone: a student into OUT/checkpoint."""
    chosen = load_recipe(recipe)
    if chosen.healing and not dry_run:
        in_huge_pages()
    from edgepress.compress.student.open import open_student
    from edgepress.pipeline import run as pipeline
    from edgepress.pipeline.prune import plan_before

    opened = open_student(student)
    if dry_run:
        print_plan(opened, plan_before(opened, chosen, ()), json=json)
        return
    plan = pipeline.compress(opened, chosen, out)
    if json:
        print_json({"checkpoint": str(out / "checkpoint"), "peak_memory_bytes_planned": plan.peak_memory_bytes})
    else:
        print(f"checkpoint: {out / 'checkpoint'}")
    pipeline.check_met(chosen, out)


@app.command()
def export(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="Output of compress or run.")],
    to: Annotated[list[str], typer.Option("--to", help="gguf, onnx or tensorrt; may be given more than once.")],
    out: Out,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", help="GPUs to build TensorRT engines for, such as rtx-4090 or sm86; comma-separated."),
    ] = None,
    profiles: ProfileChoice = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Sequences that TensorRT engines take at most.")] = 4,
    call_tokens: Annotated[
        int | None, typer.Option("--call-tokens", min=1, help="Tokens of a call at most; default: 512, or what fits.")
    ] = None,
    context: Annotated[
        int | None, typer.Option("--context", min=1, help="Tokens of a sequence at most; default: the model's.")
    ] = None,
    json: Json = False,
) -> None:
    """Export a checkpoint to OUT/gguf, OUT/onnx or OUT/tensorrt, through the parity gate."""
    from edgepress.artifact.files import tree_bytes
    from edgepress.pipeline.export import export as export_artifact

    targets = tuple(_target(name) for name in to)
    options = TensorrtOptions(
        targets=tuple(target or ()),
        profiles=chosen_profiles(profiles),
        batch=batch,
        call_tokens=call_tokens,
        context=context,
    )
    export_artifact(artifact, targets, out, options)
    written = {
        file.relative_to(out).as_posix(): tree_bytes(file)
        for name in targets
        for file in sorted((out / name).rglob("*"))
        if file.is_file()
    }
    if json:
        print_json({"out": str(out), "files": written})
        return
    for name, size in written.items():
        print(f"{out / name}  {size} bytes")


def _target(name: str) -> ExportTarget:
    for target in TARGETS:
        if name == target:
            return target
    raise InputError(f"--to {name!r}: unknown target; known targets: {', '.join(TARGETS)}")

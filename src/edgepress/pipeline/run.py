"""``edgepress compress``: the stages in order."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.files import sha256_file
from edgepress.artifact.manifest import Lineage, build_manifest, list_files, write_manifest
from edgepress.artifact.tensorrt_layout import ADDED_LATER, TensorrtOptions
from edgepress.compress.calibrate.tokens import calibration_digest
from edgepress.compress.openmp import brief_waits
from edgepress.compress.prune.config import Sparsify
from edgepress.compress.search.records import read_allocation
from edgepress.compress.student.student import Student
from edgepress.errors import BudgetNotMetError
from edgepress.pipeline.check_pruning import check_pruning
from edgepress.pipeline.export import export_targets
from edgepress.pipeline.own_output import check_own_output
from edgepress.pipeline.plan import RunPlan, budget_target, check_disk, make_plan
from edgepress.pipeline.press import press
from edgepress.pipeline.prune import healed, prune
from edgepress.pipeline.prune_step import ZEROS_ARE_READ, shape_change
from edgepress.pipeline.stages import Output, stage_key
from edgepress.pipeline.targets import predict_files
from edgepress.pipeline.text_needed import needs_calibration, rounding_needs_text
from edgepress.pipeline.trim import check_trimming, trim, trimmed_student, what_trimming_did
from edgepress.progress import say
from edgepress.recipe import TARGETS, ExportTarget, Recipe

_TOOLS = ("edgepress", "torch", "transformers", "numpy", "gguf", "onnx", "onnxruntime", "onnxruntime-genai")


def compress(student: Student, recipe: Recipe, out: Path, targets: tuple[ExportTarget, ...] = ()) -> RunPlan:
    """Compress a student into ``out/checkpoint`` and export it to ``targets``; write the manifest.

    Raises:
        InputError: what :func:`~edgepress.pipeline.plan.make_plan` refuses, a foreign output directory, a full disk.
        ParityError: an exported file does not reproduce the checkpoint; it is not kept.
    """
    check_own_output("run", out, student.source)
    with brief_waits():  # what self-written text takes depends on the processor, which torch is asked about
        plan = make_plan(student, recipe, targets, final=not recipe.reshapes)
    check_trimming(student, recipe)
    check_pruning(student, recipe, targets)
    check_disk(plan, out)
    output = Output(out)
    with output.claim("run"):
        state(student, plan)
        whole = trim(student, recipe, output)
        start = prune(whole, recipe, output)
        if recipe.reshapes:
            with brief_waits():
                plan = make_plan(start, recipe, targets)
        key = _checkpoint_key(start, recipe)
        output.run("checkpoint", key, lambda working: press(start, recipe, working), derived=(*TARGETS, "edge-llm"))
        checkpoint = Checkpoint(out / "checkpoint")
        if recipe.quantize.budgets:
            plan = _with_chosen_formats(plan, checkpoint, targets, recipe.tensorrt)
        export_targets(checkpoint, targets, output, key, recipe.tensorrt)
        _manifest(student, recipe, plan, out, ["checkpoint", *targets])
    return plan


def check_met(recipe: Recipe, out: Path) -> None:
    """Hold a finished output against the recipe's bound on the divergence; call it when everything else is done.

    Raises:
        BudgetNotMetError: it was not met; the files stay.
    """
    allocation, bound = read_allocation(out / "checkpoint"), recipe.quantize.max_kld
    if allocation is None or allocation.solved_kld is None or bound is None or allocation.solved_kld <= bound:
        return
    raise BudgetNotMetError(
        f"max_kld: {bound:g} was asked for, and the checkpoint diverges by {allocation.solved_kld:.4g} on held-out "
        f"calibration text; {out} keeps the best effort. Add finer formats to 'choices', or raise max_kld"
    )


def _with_chosen_formats(
    plan: RunPlan, checkpoint: Checkpoint, targets: tuple[ExportTarget, ...], options: TensorrtOptions
) -> RunPlan:
    """The plan as it turned out where a budget chose the formats."""
    tensors = tuple(
        msgspec.structs.replace(tensor, format=checkpoint.format(tensor.name)) for tensor in plan.model.tensors
    )
    model = msgspec.structs.replace(plan.model, tensors=tensors)
    files = {path: size for target in targets for path, size in predict_files(model, target, options).items()}
    return msgspec.structs.replace(plan, model=model, files=files)


def state(student: Student, plan: RunPlan) -> None:
    """Say what was loaded and what the work will need."""
    say(f"student {student.name}: {student.parameters / 1e6:.1f} M parameters, {student.spec.family} family")
    for note in student.notes:
        say(f"note: {note}")
    for name in plan.fell_back:
        say(f"note: {name} takes the fallback format {plan.model.format(name)}")
    say(f"peak memory about {plan.peak_memory_bytes / 1e6:.0f} MB, disk {plan.disk_bytes / 1e6:.0f} MB")


def _checkpoint_key(student: Student, recipe: Recipe) -> str:
    calibration = calibration_digest(recipe.calibration) if rounding_needs_text(recipe.quantize) else None
    target = budget_target(recipe) if recipe.quantize.budgets else None
    step = recipe.quantize
    if step.costs is not None:  # what the file says counts, not where it lies
        step = msgspec.structs.replace(step, costs=sha256_file(Path(step.costs)))
    return stage_key("checkpoint", 4, student.digest(), step, calibration, student.name, target)


def _manifest(student: Student, recipe: Recipe, plan: RunPlan, out: Path, parts: list[str]) -> None:
    types: dict[str, int] = {}
    for kind in student.stored_types.values():
        types[kind] = types.get(kind, 0) + 1
    lineage = Lineage(
        student=student.name,
        student_source=student.source,
        student_digest=student.digest(),
        student_stored_types=types,
        student_notes=(
            *student.notes,
            *what_trimming_did(recipe, out),
            *_pruned(trimmed_student(student, recipe, out), recipe, plan),
            *healed(recipe, out),
        ),
        recipe=recipe_document(recipe),
        calibration_digest=calibration_digest(recipe.calibration) if needs_calibration(recipe) else None,
        tools=tool_versions(),
    )
    write_manifest(build_manifest(plan.model, lineage, plan.fell_back, list_files(out, parts, ADDED_LATER)), out)


def _pruned(student: Student, recipe: Recipe, plan: RunPlan) -> tuple[str, ...]:
    """What pruning made of the student's shape, for the report."""
    reshaping = [step for step in recipe.pruning if not isinstance(step, Sparsify)]
    found = [f"pruned: {shape_change(student, plan.model.spec, plan.model.parameters)}"] if reshaping else []
    patterns = [step.pattern for step in recipe.pruning if isinstance(step, Sparsify)]
    return (*found, *(f"zeros in the layers' matrices, pattern {pattern}: {ZEROS_ARE_READ}" for pattern in patterns))


def recipe_document(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data, with every default filled in."""
    document: dict[str, Any] = msgspec.to_builtins(recipe)
    return document


def tool_versions() -> dict[str, str]:
    """Versions of the packages that shape the files; those not installed are left out."""
    found = {}
    for name in _TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

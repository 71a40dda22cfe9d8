"""compress, export, run: the stages in order."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.activations import write_activations
from edgepress.artifact.checkpoint import Checkpoint, is_checkpoint
from edgepress.artifact.manifest import Lineage, build_manifest, check_files, list_files, write_manifest
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.tokens import calibration_digest, calibration_windows
from edgepress.compress.quantize.assign import assign_formats
from edgepress.compress.quantize.layers import quantize_model
from edgepress.compress.student.student import Student
from edgepress.errors import InputError, ParityError
from edgepress.export.parity import ParityReference, check_logits, parity_reference
from edgepress.pipeline.budget import format_sizes, target_bytes
from edgepress.pipeline.plan import (
    RunPlan,
    budget_target,
    check_disk,
    make_plan,
    model_plan,
    needs_calibration,
    predict_files,
)
from edgepress.pipeline.stages import Output, stage_key
from edgepress.progress import say
from edgepress.recipe import TARGETS, ExportTarget, Recipe
from edgepress.runtime.locate import ModelFile

_TOOLS = ("edgepress", "torch", "transformers", "numpy", "gguf", "onnx", "onnxruntime", "onnxruntime-genai")


def compress(student: Student, recipe: Recipe, out: Path, targets: tuple[ExportTarget, ...] = ()) -> RunPlan:
    """Compress a student into ``out/checkpoint`` and export it to ``targets``; write the manifest.

    Raises:
        InputError: what :func:`~edgepress.pipeline.plan.make_plan` refuses, a foreign output directory, a full disk.
        ParityError: an exported file does not reproduce the checkpoint; it is not kept.
    """
    plan = make_plan(student, recipe, targets)
    check_disk(plan, out)
    output = Output(out)
    with output.claim():
        state(student, plan)
        key = _checkpoint_key(student, recipe)
        output.run("checkpoint", key, lambda working: _make_checkpoint(student, recipe, plan, working), derived=TARGETS)
        checkpoint = Checkpoint(out / "checkpoint")
        if recipe.quantize.budgets:
            plan = _with_chosen_formats(plan, checkpoint, targets)
        export_targets(checkpoint, targets, output, key)
        _manifest(student, recipe, plan, out, ["checkpoint", *targets])
    return plan


def _with_chosen_formats(plan: RunPlan, checkpoint: Checkpoint, targets: tuple[ExportTarget, ...]) -> RunPlan:
    """The plan as it turned out where a budget chose the formats."""
    tensors = tuple(
        msgspec.structs.replace(tensor, format=checkpoint.format(tensor.name)) for tensor in plan.model.tensors
    )
    model = msgspec.structs.replace(plan.model, tensors=tensors)
    files = {path: size for target in targets for path, size in predict_files(model, target).items()}
    return msgspec.structs.replace(plan, model=model, files=files)


def export_targets(
    checkpoint: Checkpoint, targets: tuple[ExportTarget, ...], output: Output, checkpoint_key: str
) -> None:
    """Export a checkpoint to each target, through the parity gate."""
    reference: list[ParityReference] = []
    for target in targets:

        def make(directory: Path, target: ExportTarget = target) -> None:
            model = _export(checkpoint, target, directory)
            _check_size(checkpoint, target, directory)
            if not reference:
                reference.append(parity_reference(checkpoint))
            result = check_logits(model, checkpoint, reference[0])
            say(f"{target}: parity in {result.engine}: KLD {result.kld_mean:.2e} (bound {result.bound:g})")

        output.run(target, stage_key("export", 1, target, checkpoint_key), make)


def export(artifact: Path, targets: tuple[ExportTarget, ...], out: Path) -> None:
    """``edgepress export``: an existing checkpoint to files.

    Raises:
        InputError: no checkpoint there, or a target that cannot hold it.
    """
    directory = artifact if is_checkpoint(artifact) else artifact / "checkpoint"
    if not is_checkpoint(directory):
        raise InputError(f"{artifact}: no checkpoint here; give the output of 'edgepress compress' or 'edgepress run'")
    check_files(artifact, "checkpoint")
    checkpoint = Checkpoint(directory)
    for target in targets:
        predict_files(checkpoint.plan(), target)
    output = Output(out)
    with output.claim():
        export_targets(checkpoint, targets, output, checkpoint.digest())


def state(student: Student, plan: RunPlan) -> None:
    """Say what was loaded and what the work will need."""
    say(f"student {student.name}: {student.parameters / 1e6:.1f} M parameters, {student.spec.family} family")
    for note in student.notes:
        say(f"note: {note}")
    for name in plan.fell_back:
        say(f"note: {name} takes the fallback format {plan.model.format(name)}")
    say(f"peak memory about {plan.peak_memory_bytes / 1e6:.0f} MB, disk {plan.disk_bytes / 1e6:.0f} MB")


def _checkpoint_key(student: Student, recipe: Recipe) -> str:
    calibration = calibration_digest(recipe.calibration) if needs_calibration(recipe) else None
    target = budget_target(recipe) if recipe.quantize.budgets else None
    return stage_key("checkpoint", 2, student.digest(), recipe.quantize, calibration, student.name, target)


def _make_checkpoint(student: Student, recipe: Recipe, plan: RunPlan, directory: Path) -> None:
    windows = calibration_windows(student, recipe.calibration) if needs_calibration(recipe) else None
    chosen: dict[str, str] = {}
    if windows is not None and recipe.quantize.budgets:
        chosen = _choose(student, recipe, windows, directory)
    assignment = assign_formats(student, recipe.quantize, chosen)
    source: WeightSource = student
    if windows is not None and recipe.quantize.activations != "float":
        from edgepress.compress.quantize.activations import prepare_activations

        source, scales = prepare_activations(student, recipe.quantize, assignment, windows)
        write_activations(directory, scales)
    quantize_model(source, recipe.quantize, assignment, windows, directory, name=plan.model.name)


def _choose(student: Student, recipe: Recipe, windows: NDArray[np.int32], directory: Path) -> dict[str, str]:
    """Formats for the recipe's budget; what the search found goes into ``directory``."""
    from edgepress.compress.search.choose import choose_formats
    from edgepress.compress.search.records import write_allocation

    step, target = recipe.quantize, budget_target(recipe)
    sizes, others = format_sizes(
        student,
        step,
        target,
        lambda formats: model_plan(student, assign_formats(student, step, formats)),
        lambda model: sum(predict_files(model, target).values()),
    )
    budget = target_bytes(student, step)
    allocation = choose_formats(
        student,
        windows,
        sizes,
        budget_bytes=None if budget is None else budget - others,
        max_kld=step.max_kld,
        seed=recipe.calibration.seed,
    )
    write_allocation(directory, allocation)
    say(
        f"formats chosen: divergence {allocation.tried_kld:.4f} before the final solve, "
        f"{np.mean(allocation.random_kld):.4f} for random formats of the same bytes"
    )
    return allocation.formats


def _export(checkpoint: Checkpoint, target: ExportTarget, directory: Path) -> ModelFile:
    """Write one target and compare its integers with the checkpoint's."""
    if target == "gguf":
        from edgepress.export.gguf.tokenizer.check import check_tokenizer
        from edgepress.export.gguf.verify import verify_gguf
        from edgepress.export.gguf.writer import export_gguf

        path = directory / "model.gguf"
        export_gguf(checkpoint, path)
        verify_gguf(path, checkpoint)
        check_tokenizer(path, checkpoint.tokenizer_dir)
        return ModelFile(engine="llama.cpp", path=path)
    from edgepress.export.onnx.verify import verify_onnx
    from edgepress.export.onnx.writer import export_onnx

    export_onnx(checkpoint, directory)
    verify_onnx(directory, checkpoint)
    return ModelFile(engine="onnxruntime", path=directory)


def _check_size(checkpoint: Checkpoint, target: ExportTarget, directory: Path) -> None:
    """The plan promised exact sizes; hold it to that."""
    for path, size in predict_files(checkpoint.plan(), target).items():
        written = (directory / path.removeprefix(f"{target}/")).stat().st_size
        if written != size:
            raise ParityError(f"{path}: {written} bytes written, {size} predicted; please report this")


def _manifest(student: Student, recipe: Recipe, plan: RunPlan, out: Path, parts: list[str]) -> None:
    types: dict[str, int] = {}
    for kind in student.stored_types.values():
        types[kind] = types.get(kind, 0) + 1
    lineage = Lineage(
        student=student.name,
        student_source=student.source,
        student_digest=student.digest(),
        student_stored_types=types,
        student_notes=student.notes,
        recipe=recipe_document(recipe),
        calibration_digest=calibration_digest(recipe.calibration) if needs_calibration(recipe) else None,
        tools=tool_versions(),
    )
    write_manifest(build_manifest(plan.model, lineage, plan.fell_back, list_files(out, parts)), out)


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

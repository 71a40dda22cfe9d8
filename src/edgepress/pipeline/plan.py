"""The plan: everything that can be said and refused before any work is done.

Formats of all tensors, exact sizes of all files, peak memory, free disk. ``edgepress run --dry-run`` prints it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from edgepress.artifact.families import EMBEDDING, HEAD
from edgepress.artifact.formats import get_format
from edgepress.artifact.plan import ModelPlan
from edgepress.compress.calibrate.tokens import check_calibration, require_file
from edgepress.compress.prune.config import PruneLayers, Sparsify
from edgepress.compress.quantize.assign import Assignment, assign_formats, free_choices
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.search.limits import check_alone
from edgepress.compress.student.student import Student
from edgepress.errors import InputError
from edgepress.pipeline.budget import SOLVES_FOR_A_BOUND, USUAL, check_budget, smallest_formats, target_bytes
from edgepress.pipeline.costs import token_time_limit
from edgepress.pipeline.measure import text_windows
from edgepress.pipeline.memory import peak_memory
from edgepress.pipeline.overlap import check_recipe_texts
from edgepress.pipeline.targets import check_gpus, check_support, predict_files
from edgepress.pipeline.text_needed import needs_calibration
from edgepress.recipe import ExportTarget, Recipe
from edgepress.runtime.llamacpp_quantize import check_quantizer


class RunPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run will do. ``files`` maps paths below the output directory to exact bytes.

    ``compare_bytes`` is what llama.cpp's own files take at most while they are made, ``passing_bytes`` what checkpoints
    take beside the last one until it is there: those tried for a bound, the solved one that is trained, ``stage_bytes``
    at most what the steps before quantize leave. Where formats are chosen for a budget, ``model`` and ``files`` are
    those of the smallest formats until they are.
    """

    model: ModelPlan
    fell_back: tuple[str, ...]
    files: dict[str, int]
    checkpoint_bytes: int
    peak_memory_bytes: int
    compare_bytes: int = 0
    passing_bytes: int = 0
    stage_bytes: int = 0

    @property
    def disk_bytes(self) -> int:
        """Bytes that the output directory will take at its fullest, about."""
        return (
            self.stage_bytes
            + self.checkpoint_bytes
            + max(self.passing_bytes, sum(self.files.values()) + self.compare_bytes)
        )


def make_plan(student: Student, recipe: Recipe, targets: tuple[ExportTarget, ...], *, final: bool = True) -> RunPlan:
    """Check a recipe against a student.

    Args:
        student: the model.
        recipe: what is done to it.
        targets: that it is exported to.
        final: whether the student has the shape that is quantized; a smaller one may meet a budget that this one
            cannot.

    Raises:
        InputError: the first thing that cannot be done, and what could be instead.
    """
    step = recipe.quantize
    if needs_calibration(recipe):
        check_calibration(recipe.calibration)
        _check_judges(step, recipe.calibration.samples)
    if targets:
        _check_measurements(student, recipe)
        _check_tensorrt(recipe, targets)
    chosen = smallest_formats(student, step, budget_target(recipe)) if step.budgets else {}
    assignment = assign_formats(student, step, chosen)
    model = model_plan(student, assignment)
    if step.qad_tokens:
        _check_training(model, recipe)
    if step.budgets:
        _check_choices(student, recipe, model, targets)
        smallest = sum(predict_files(model, budget_target(recipe), recipe.tensorrt).values())
        if final:
            check_budget(smallest, target_bytes(student, step), step, assignment.fell_back)
        if final and (limit := token_time_limit(student, step, budget_target(recipe))) is not None:
            check_alone(limit)
    files: dict[str, int] = {}
    for target in targets:
        files |= predict_files(model, target, recipe.tensorrt)
    check_gpus(model, recipe.tensorrt.targets if "tensorrt" in targets else ())
    return RunPlan(
        model=model,
        fell_back=assignment.fell_back,
        files=files,
        checkpoint_bytes=_checkpoint_bytes(model),
        peak_memory_bytes=peak_memory(student, recipe, calibrated=needs_calibration(recipe)),
        compare_bytes=_compare_bytes(student, recipe) if targets and recipe.compare else 0,
        passing_bytes=_checkpoint_bytes(model) * _passing_checkpoints(step),
        stage_bytes=4 * student.parameters * (recipe.stages_before_quantize + _copies_beside(recipe)),
    )


def _copies_beside(recipe: Recipe) -> int:
    """Copies that a pruning step has beside it at most: what is not repaired yet; of layers that may go also after."""
    repaired = [step for step in recipe.pruning if not isinstance(step, Sparsify) and step.repair]
    tries = any(isinstance(step, PruneLayers) and step.part == "layer" for step in repaired)
    return 0 if not repaired else 2 if tries else 1


def _check_training(model: ModelPlan, recipe: Recipe) -> None:
    """Refuse a distillation that has nothing to train."""
    if recipe.quantize.activations != "float":
        raise InputError("qad_tokens: rounded inputs are not trained; leave out qad_tokens, or activations")
    if not any(get_format(tensor.format).levels for tensor in model.tensors if tensor.name not in (EMBEDDING, HEAD)):
        raise InputError("qad_tokens: no matrix of the layers is in a format with codes; there is nothing to train")


def _check_judges(step: QuantizeStep, samples: int) -> None:
    """Refuse calibration text of which nothing can be set aside to judge what was made from the rest."""
    if 0 < step.qad_samples < samples:
        raise InputError(
            f"qad_samples: {step.qad_samples} windows to train on, fewer than the {samples} of calibration.samples; "
            f"ask for more, or leave qad_samples out"
        )
    bounded = step.max_kld is not None
    aside = bounded + (step.qad_tokens > 0)
    if max(samples, step.qad_samples) <= aside or samples <= bounded:
        names = " and ".join(["max_kld"] * bounded + ["qad_tokens"] * (step.qad_tokens > 0))
        raise InputError(
            f"calibration.samples: {samples} of text leave no window to judge the result by, which {names} need; "
            f"take at least {aside + 1}"
        )


def _check_choices(student: Student, recipe: Recipe, model: ModelPlan, targets: tuple[ExportTarget, ...]) -> None:
    """Refuse formats to choose from that an export cannot hold: the search may take any of them."""
    target = budget_target(recipe)
    free = free_choices(student, recipe.quantize, USUAL[target])
    for format in dict.fromkeys(format for formats in free.values() for format in formats):
        inputs = {} if format == recipe.quantize.activations else {"input_format": "float"}
        tensors = tuple(
            msgspec.structs.replace(tensor, format=format, **inputs) if format in free.get(tensor.name, ()) else tensor
            for tensor in model.tensors
        )
        for place in dict.fromkeys((target, *targets)):
            check_support(msgspec.structs.replace(model, tensors=tensors), place)


def model_plan(student: Student, assignment: Assignment) -> ModelPlan:
    """Shapes and formats of all tensors of the compressed model."""
    return ModelPlan(
        name=student.name,
        spec=student.spec,
        config=student.config | {"tie_word_embeddings": student.spec.tied},
        tokenizer_dir=student.tokenizer_dir,
        tensors=assignment.tensors,
    )


def budget_target(recipe: Recipe) -> ExportTarget:
    """The target whose file a budget is for: the first.

    Raises:
        InputError: the recipe exports nothing.
    """
    if not recipe.export:
        raise InputError(f"{recipe.quantize.budgets[0]}: the budget is for the first export target, and there is none")
    return recipe.export[0]


def _check_measurements(student: Student, recipe: Recipe) -> None:
    """What would otherwise fail when all the files are made."""
    for name in recipe.evaluate.files if recipe.evaluate else ():
        require_file("evaluate.files", name)
    if recipe.evaluate and recipe.evaluate.files:
        context = min(recipe.evaluate.context, student.spec.context)
        text_windows(student, tuple(Path(name) for name in recipe.evaluate.files), recipe.evaluate.tokens, context)
    if needs_calibration(recipe):
        check_recipe_texts(recipe)
    deepest, context = max(recipe.bench.depth) if recipe.bench else 0, student.spec.context
    if deepest + 2 > context:
        raise InputError(f"bench.depth: {deepest} tokens leave no room in the student's context of {context}")


def _check_tensorrt(recipe: Recipe, targets: tuple[ExportTarget, ...]) -> None:
    """Refuse a context of engines that the measurements do not fit into."""
    context, evaluated = recipe.tensorrt.context, recipe.evaluate.context if recipe.evaluate else 0
    if "tensorrt" in targets and context is not None and context < evaluated:
        raise InputError(f"tensorrt.context: {context} tokens are fewer than evaluate.context, {evaluated}")


def _compare_bytes(student: Student, recipe: Recipe) -> int:
    """Disk for llama.cpp's own files: the student in float32, twice while it is written, then once beside them.

    Raises:
        InputError: nothing would be measured, or llama.cpp cannot hold the student.
    """
    if recipe.evaluate is None:
        raise InputError("compare: the files are made to be measured, and evaluate is null; leave one of the two out")
    check_quantizer()
    plain, wide = (
        model_plan(student, assign_formats(student, QuantizeStep(solver="nearest", format=format, fallback="f16")))
        for format in ("f32", "q8_0")
    )
    try:
        whole = sum(predict_files(plain, "gguf").values())
    except InputError as error:
        raise InputError(f"compare: llama.cpp's files need the student as GGUF: {error}") from error
    smaller = sum(tensor.data_bytes for tensor in plain.tensors) - sum(tensor.data_bytes for tensor in wide.tensors)
    return whole + max(whole, len(set(recipe.compare)) * (whole - smaller))


def check_disk(plan: RunPlan, out: Path) -> None:
    """Refuse to start what the disk cannot hold.

    Raises:
        InputError: needed and free bytes.
    """
    existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if plan.disk_bytes > free:
        raise InputError(
            f"{out}: the output needs {plan.disk_bytes / 1e6:.0f} MB and {free / 1e6:.0f} MB are free; "
            "free some space or choose another disk"
        )


def _passing_checkpoints(step: QuantizeStep) -> int:
    """How many checkpoints lie beside the last one at most, before it takes its name."""
    return (SOLVES_FOR_A_BOUND - 1 if step.max_kld is not None else 0) + (step.qad_tokens > 0)


def _checkpoint_bytes(model: ModelPlan) -> int:
    """Dequantized float32 weights, and a byte per code."""
    return sum(tensor.values * (5 if len(tensor.shape) > 1 else 4) for tensor in model.tensors)

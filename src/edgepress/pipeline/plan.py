"""The plan: everything that can be said and refused before any work is done.

Formats of all tensors, exact sizes of all files, peak memory, free disk. ``edgepress run --dry-run`` prints it.
"""

from __future__ import annotations

import shutil
from math import prod
from pathlib import Path

import msgspec

from edgepress.artifact.families import EMBEDDING, LAYER
from edgepress.artifact.plan import ModelPlan
from edgepress.compress.calibrate.self_generate import streams_at_once, weight_bytes
from edgepress.compress.calibrate.tokens import check_calibration
from edgepress.compress.quantize.assign import Assignment, assign_formats
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.quantize.prepare.apply import looks_at_text
from edgepress.compress.search.limits import check_alone
from edgepress.compress.student.student import Student
from edgepress.errors import InputError
from edgepress.pipeline.budget import check_budget, smallest_formats, target_bytes
from edgepress.pipeline.costs import token_time_limit
from edgepress.pipeline.measure import text_windows
from edgepress.pipeline.overlap import check_recipe_texts
from edgepress.recipe import ExportTarget, Recipe
from edgepress.runtime.llamacpp_quantize import check_quantizer

# What Python holds before any model, without and with torch and transformers, measured on x86-64 Linux; and what
# torch's allocator and matrix kernels take on top of the tensors.
_LIBRARIES_BYTES = 90 << 20
_TORCH_BYTES = 390 << 20
_WORKSPACE_BYTES = 100 << 20
_TOKENS_PER_BATCH = 2048
_TOKENS_OF_LOGITS = 128
_TOKENS_IN_TRAINING = 1024


class RunPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run will do. ``files`` maps paths below the output directory to exact bytes.

    ``compare_bytes`` is what llama.cpp's own files take at most while they are made. Where formats are chosen for a
    budget, ``model`` and ``files`` are those of the smallest formats until they are.
    """

    model: ModelPlan
    fell_back: tuple[str, ...]
    files: dict[str, int]
    checkpoint_bytes: int
    peak_memory_bytes: int
    compare_bytes: int = 0

    @property
    def disk_bytes(self) -> int:
        """Bytes that the output directory will take, about."""
        return self.checkpoint_bytes + sum(self.files.values()) + self.compare_bytes


def make_plan(student: Student, recipe: Recipe, targets: tuple[ExportTarget, ...]) -> RunPlan:
    """Check a recipe against a student.

    Raises:
        InputError: the first thing that cannot be done, and what could be instead.
    """
    step = recipe.quantize
    if needs_calibration(recipe):
        check_calibration(recipe.calibration)
    if step.qad_tokens and step.activations != "float":
        raise InputError("qad_tokens: rounded inputs are not trained; leave out qad_tokens, or activations: int8")
    if targets:
        _check_measurements(student, recipe)
    chosen = smallest_formats(student, step, budget_target(recipe)) if step.budgets else {}
    assignment = assign_formats(student, step, chosen)
    model = model_plan(student, assignment)
    if step.budgets:
        smallest = sum(predict_files(model, budget_target(recipe)).values())
        check_budget(smallest, target_bytes(student, step), step)
        if (limit := token_time_limit(student, step, budget_target(recipe))) is not None:
            check_alone(limit)
    files: dict[str, int] = {}
    for target in targets:
        files |= predict_files(model, target)
    return RunPlan(
        model=model,
        fell_back=assignment.fell_back,
        files=files,
        checkpoint_bytes=_checkpoint_bytes(model),
        peak_memory_bytes=_peak_memory(student, recipe),
        compare_bytes=_compare_bytes(student, recipe) if targets and recipe.compare else 0,
    )


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
        if not Path(name).is_file():
            raise InputError(f"evaluate.files: {name}: no such file")
    if recipe.evaluate and recipe.evaluate.files:
        context = min(recipe.evaluate.context, student.spec.context)
        text_windows(student, tuple(Path(name) for name in recipe.evaluate.files), recipe.evaluate.tokens, context)
    if needs_calibration(recipe):
        check_recipe_texts(recipe)
    deepest, context = max(recipe.bench.depth) if recipe.bench else 0, student.spec.context
    if deepest + 2 > context:
        raise InputError(f"bench.depth: {deepest} tokens leave no room in the student's context of {context}")


def predict_files(model: ModelPlan, target: ExportTarget) -> dict[str, int]:
    """Exact bytes of every file of an export, by path below the output directory; refuses what cannot be exported."""
    if target == "gguf":
        from edgepress.export.gguf.support import check_gguf_support
        from edgepress.export.gguf.writer import predict_gguf_bytes

        check_gguf_support(model)
        return {"gguf/model.gguf": predict_gguf_bytes(model)}
    from edgepress.export.onnx.support import check_onnx_support
    from edgepress.export.onnx.writer import predict_onnx_bytes

    check_onnx_support(model)
    return {f"onnx/{name}": size for name, size in predict_onnx_bytes(model).items()}


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


def needs_calibration(recipe: Recipe) -> bool:
    """Whether any step looks at activations."""
    step = recipe.quantize
    if step.solver != "nearest" or step.activations != "float":
        return True
    return bool(step.budgets) or looks_at_text(step) or step.qad_tokens > 0


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


def _checkpoint_bytes(model: ModelPlan) -> int:
    """Dequantized float32 weights, and a byte per code."""
    return sum(tensor.values * (5 if len(tensor.shape) > 1 else 4) for tensor in model.tensors)


def _peak_memory(student: Student, recipe: Recipe) -> int:
    """Peak resident bytes of ``compress``: the largest of its phases, on top of the libraries."""
    values = {name: prod(student.shape(name)) for name in student.names}
    embedding = 4 * values[EMBEDDING]
    layers = [LAYER.format(i=i) for i in range(student.spec.depth)]
    layer = max(4 * sum(count for name, count in values.items() if name.startswith(prefix)) for prefix in layers)
    phases = [3 * embedding, 3 * layer]  # read, code, dequantize and write
    calibration = recipe.calibration
    if not needs_calibration(recipe):
        return _LIBRARIES_BYTES + max(phases)
    length = min(calibration.length, student.spec.context)
    hidden = 4 * calibration.samples * length * student.spec.hidden
    widest = max(entry.ffn for entry in student.spec.layers)
    activations = 4 * _TOKENS_PER_BATCH * (3 * widest + 4 * student.spec.hidden)
    if recipe.quantize.activations != "float":
        activations += 12 * _TOKENS_PER_BATCH * widest  # the bins of an input's histogram
    phases.append(hidden + 3 * embedding + activations + _WORKSPACE_BYTES)
    phases.append(hidden + 3 * layer + activations + _WORKSPACE_BYTES)
    if looks_at_text(recipe.quantize):
        phases.append(hidden + 3 * layer + 60 * student.spec.hidden**2 + activations + _WORKSPACE_BYTES)
    if recipe.quantize.solver == "gptaq" or recipe.quantize.budgets:
        # Two models' hidden states; the embedding's target, values and codes; the widest Hessian and its factors.
        moments = 60 * max(widest, student.spec.hidden) ** 2
        # A search also holds a candidate's head beside the original's, and their logits.
        logits = 16 * _TOKENS_OF_LOGITS * student.spec.vocab if recipe.quantize.budgets else 0
        phases.append(hidden + 5 * embedding + logits + activations + _WORKSPACE_BYTES)
        phases.append(2 * hidden + 5 * layer + moments + 2 * activations + _WORKSPACE_BYTES)
    if recipe.quantize.qad_tokens:
        phases.append(_training_memory(student, recipe, length))
    if calibration.self_generated:
        streams = min(streams_at_once(student, length), calibration.samples)
        cache = streams * student.spec.kv_cache_bytes(length, weight_bytes())
        phases.append(weight_bytes() * sum(values.values()) + embedding + cache + _WORKSPACE_BYTES)
    return _TORCH_BYTES + max(phases)


def _training_memory(student: Student, recipe: Recipe, length: int) -> int:
    """Codes, their momentum, the values they stand for and the gradients of both in float32, and the best codes so far;
    the embedding and both heads; last hidden states; what a batch of activations leaves for the backward pass.
    """
    matrices = sum(prod(student.shape(name)) for name in student.names if name != EMBEDDING)
    widest = max(entry.ffn for entry in student.spec.layers)
    states = 4 * max(recipe.calibration.samples, recipe.quantize.qad_samples) * length * student.spec.hidden
    kept = 4 * _TOKENS_IN_TRAINING * student.spec.depth * (6 * widest + 14 * student.spec.hidden)
    logits = 24 * _TOKENS_OF_LOGITS * student.spec.vocab
    return 24 * matrices + 4 * 4 * prod(student.shape(EMBEDDING)) + 2 * states + kept + logits + _WORKSPACE_BYTES

"""The stages before the quantizer: each step of a recipe that makes the model smaller, or heals it, leaves a float32
checkpoint, the next one's student. The last is what gets quantized.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.hf_shapes import loads_in_transformers
from edgepress.artifact.spec import ModelSpec
from edgepress.compress.calibrate.tokens import calibration_digest, calibration_windows
from edgepress.compress.distill.config import DistillStep
from edgepress.compress.openmp import brief_waits
from edgepress.compress.prune.config import PruneFfn, PruneHeads, PruneHidden, PruneLayers, PruneStep, Sparsify
from edgepress.compress.student.checkpoint import CheckpointStudent
from edgepress.compress.student.student import Student
from edgepress.pipeline.check_pruning import MOST_STEPS, check_pruning
from edgepress.pipeline.heal import heal, healing_digest, what_healed
from edgepress.pipeline.held_shapes import is_held, unlike
from edgepress.pipeline.plan import RunPlan, make_plan
from edgepress.pipeline.reshaped import reshaped
from edgepress.pipeline.stages import Output, stage_key
from edgepress.pipeline.trim import check_trimming, trimmed_student
from edgepress.progress import say
from edgepress.recipe import ExportTarget, Recipe
from edgepress.recipe_order import step_name

Windows = NDArray[np.int32]
_FIRST = "first"  # a step's model, before it is solved for the whole one
_TRIED = "tried"  # what is left of the layers that may go
_PRUNED, _DISTILLED = "pruned-{place}", "distilled-{place}"
_HEALED_VERSION = 3
ZEROS_ARE_READ = (
    "TensorRT has kernels for the 2:4 pattern on Ampere and later; llama.cpp and ONNX Runtime store and multiply zeros "
    "like any other number, so their files are neither smaller nor faster"
)


def plan_before(student: Student, recipe: Recipe, targets: tuple[ExportTarget, ...]) -> RunPlan:
    """The plan of a dry run. Files are those of the shapes that pruning leaves where all layers lose alike; the memory
    is what the student takes as it came in.

    Raises:
        InputError: as :func:`check_pruning`, or something that no plan can be made of.
    """
    check_trimming(student, recipe)
    check_pruning(student, recipe, targets)
    if recipe.trimming:
        say("note: sizes are those with the whole vocabulary; what it becomes is known when the text has been read")
    plan = make_plan(student, recipe, targets, final=not recipe.reshapes)
    if (smaller := reshaped(student, recipe)) is student:
        return plan
    say(
        f"note: sizes are those behind pruning ({student.parameters / 1e6:.1f} M → {smaller.parameters / 1e6:.1f} M "
        "parameters), all layers losing alike; widths chosen by layer, and biases of the repair, change them a little"
    )
    after = make_plan(smaller, recipe, targets, final=False)
    most = max(plan.peak_memory_bytes, after.peak_memory_bytes)
    return msgspec.structs.replace(after, peak_memory_bytes=most, stage_bytes=plan.stage_bytes)


def prune(student: Student, recipe: Recipe, output: Output) -> Student:
    """Do a recipe's steps before quantize; the student itself where it has none.

    Args:
        student: as it came in.
        recipe: with the steps; each of its export targets has to hold the shape.
        output: where the stages lie.
    """
    original = student  # writes the calibration text and teaches: better than what is left of it
    steps = recipe.before_quantize
    if steps:
        key = stage_key("prune", 8, student.digest(), calibration_digest(recipe.calibration), student.name)
    for place, step in enumerate(steps, start=1):
        later = [name for behind in range(place + 1, MOST_STEPS + 1) for name in _names(behind)]
        if isinstance(step, DistillStep):
            key = stage_key(key, _HEALED_VERSION, step, healing_digest(step))
            make = partial(heal, original, student, step, recipe, output.training(key))
        else:
            key = stage_key(key, step, recipe.export)
            make = partial(_make, student, step, recipe, original)
        name = _name(place, step)
        for other in set(_names(place)) - {name}:
            output.forget(other)
        student = CheckpointStudent(output.run(name, key, make, derived=tuple(later)))
    output.forget_trainings()
    for behind in range(len(steps) + 1, MOST_STEPS + 1):
        for name in _names(behind):
            output.forget(name)
    return student


def _names(place: int) -> tuple[str, str]:
    return _PRUNED.format(place=place), _DISTILLED.format(place=place)


def _name(place: int, step: PruneStep | DistillStep) -> str:
    return (_DISTILLED if isinstance(step, DistillStep) else _PRUNED).format(place=place)


def pruned_student(student: Student, recipe: Recipe, out: Path) -> Student:
    """What a finished run quantized: its last stage before that, or the student itself."""
    made = stage_directories(recipe, out)
    return CheckpointStudent(made[-1]) if made else trimmed_student(student, recipe, out)


def stage_directories(recipe: Recipe, out: Path) -> list[Path]:
    """Where a run leaves the models behind the steps between trim_vocabulary and quantize, in order."""
    return [out / _name(place, step) for place, step in enumerate(recipe.before_quantize, start=1)]


def healed(recipe: Recipe, out: Path) -> tuple[str, ...]:
    """What each distill step of a finished run brought, for the report."""
    places = [place for place, step in enumerate(recipe.before_quantize, start=1) if isinstance(step, DistillStep)]
    return tuple(what_healed(out / _DISTILLED.format(place=place)) for place in places)


def _make(student: Student, step: PruneStep, recipe: Recipe, writer: Student, working: Path) -> None:
    from edgepress.compress.prune.reconstruct import windows_to_start
    from edgepress.compress.prune.repair import repair

    with brief_waits():
        windows = calibration_windows(writer, recipe.calibration)
        if _is_repaired(student, step):
            first = working / _FIRST
            first.mkdir()
            trains = isinstance(step, PruneFfn) and step.reconstruct
            widest = max(layer.ffn for layer in student.spec.layers)
            start = windows_to_start(windows, widest) if trains else windows
            _remove(student, step, recipe, start, first, repaired=True)
            repair(student, first, windows, working, name=student.name, trains=trains)
            shutil.rmtree(first)
        else:
            _remove(student, step, recipe, windows, working, repaired=False)
    _state(student, CheckpointStudent(working), step)


def _remove(
    student: Student, step: PruneStep, recipe: Recipe, windows: Windows, directory: Path, *, repaired: bool
) -> None:
    """Write what a step leaves, each reader of neurons or heads solved for its own layer; ``repaired``: it will be."""
    from edgepress.compress.prune.choose_attention import choose_attention
    from edgepress.compress.prune.choose_layers import choose_layers
    from edgepress.compress.prune.depth import drop_attention, drop_layers
    from edgepress.compress.prune.hidden import prune_hidden
    from edgepress.compress.prune.layers import prune_widths
    from edgepress.compress.prune.parts import bias_option, part_of
    from edgepress.compress.prune.sparsify import check_widths, pattern_of, write_sparse

    if isinstance(step, Sparsify):
        check_widths(student.spec, pattern_of(step))
        write_sparse(student, step, windows, directory, name=student.name)
    elif isinstance(step, PruneLayers):
        if step.part == "attention":
            gone = choose_attention(student, step.drop, windows)
            drop_attention(student, gone, directory, name=student.name)
        else:
            tried_in = directory / _TRIED if repaired else None
            gone = choose_layers(student, step.drop, windows, tried_in=tried_in)
            drop_layers(student, gone, directory, name=student.name)
        what = "layers" if step.part == "layer" else "attention of layers"
        say(f"prune_layers: gone: {what} {', '.join(map(str, gone)) or 'none'}")
    elif isinstance(step, PruneHidden):
        prune_hidden(student, step, windows, directory, name=student.name)
    else:
        bias = bias_option(student, part_of(step)) is not None
        bias = bias and is_held(student, student.spec.layers, recipe.export, biased=True)
        counts = _counts(student, step, windows, recipe, bias=bias)
        prune_widths(student, step, counts, windows, directory, name=student.name, bias=bias)


def _is_repaired(student: Student, step: PruneStep) -> bool:
    """Whether what a step leaves is solved for the whole model. Where the stream takes what is written into it through
    norms, only behind prune_hidden: with nothing but readers the others may lose by it.
    """
    from edgepress.compress.prune.repair import writes_directly

    if isinstance(step, Sparsify) or not step.repair:
        return False
    if isinstance(step, PruneFfn | PruneHeads) and step.method == "flap":  # has a repair of its own
        return False
    if isinstance(step, PruneLayers) and not writes_directly(student):
        say("prune_layers: this model normalises what its layers add, so what stays cannot be repaired")
    return writes_directly(student) or isinstance(step, PruneHidden)


def _counts(
    student: Student, step: PruneFfn | PruneHeads, windows: Windows, recipe: Recipe, *, bias: bool
) -> list[int]:
    """Units that each layer keeps."""
    from edgepress.compress.prune.losses import layer_losses, least_units
    from edgepress.compress.prune.parts import layer_units
    from edgepress.compress.prune.widths import allocated_counts, uniform_counts

    units = [layer_units(step, student.spec, layer) for layer in student.spec.layers]
    even = uniform_counts(units, step.keep, step_name(type(step)))
    apart = is_held(student, unlike(student), recipe.export, biased=False)
    if step.widths == "uniform" or not apart or step.keep == 1:
        return even
    least = [least_units(layer, step.keep) for layer in units]
    losses = layer_losses(student, step, windows, least, intercept=bias, seed=recipe.calibration.seed)
    wanted = round(step.keep * sum(layer.count for layer in units))
    return allocated_counts(units, losses, max(wanted, sum(least)))


def _state(before: Student, after: Student, step: PruneStep) -> None:
    """Say what was removed, and the new shape."""
    if isinstance(step, Sparsify):
        from edgepress.compress.prune.sparsify import zero_share

        share = f"{100 * zero_share(after):.1f} %"
        say(f"sparsify: {share} of the weights in the layers' matrices are zero; {ZEROS_ARE_READ}")
        return
    name = step_name(type(step))
    say(f"{name}: {shape_change(before, after.spec, after.parameters)}")
    before_type, after_type = (each.config["model_type"] for each in (before, after))
    if before_type != after_type:
        say(
            f"{name}: config.json says {after_type} now, which computes the same: transformers takes no {before_type} "
            f"model whose width ({after.spec.hidden}) is no multiple of its heads; the readers get no biases"
        )
    elif not loads_in_transformers(after.config):
        say(
            f"{name}: transformers takes no {after_type} model whose width ({after.spec.hidden}) is no multiple of its "
            "heads; edgepress and the exports do"
        )


def shape_change(before: Student, spec: ModelSpec, parameters: int) -> str:
    """What a model's parameters went down to, and its new shape, in words."""
    widths = [layer.ffn for layer in spec.layers]
    ffn = str(widths[0]) if len(set(widths)) == 1 else f"{min(widths)} to {max(widths)}"
    heads = dict.fromkeys(f"{spec.layers[index].heads}/{spec.layers[index].kv_heads}" for index in spec.attending)
    attending = f" in {len(spec.attending)} of them" if len(spec.attending) < spec.depth else ""
    width = f"hidden width {spec.hidden} of {before.spec.hidden}, " if spec.hidden != before.spec.hidden else ""
    return (
        f"{before.parameters / 1e6:.1f} M parameters → {parameters / 1e6:.1f} M: {spec.depth} of {before.spec.depth} "
        f"layers, {width}feed-forward {ffn} wide, "
        f"{' or '.join(heads)} heads (query/key-value){attending}"
    )

"""One step that makes the model smaller: what goes is chosen, what stays is made up for, and the new shape is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.hf_shapes import loads_in_transformers
from edgepress.artifact.spec import ModelSpec
from edgepress.compress.calibrate.tokens import calibration_windows
from edgepress.compress.openmp import brief_waits
from edgepress.compress.prune.config import PruneFfn, PruneHeads, PruneHidden, PruneLayers, PruneStep, Sparsify
from edgepress.compress.student.checkpoint import CheckpointStudent
from edgepress.compress.student.student import Student
from edgepress.pipeline.held_shapes import is_held, unlike
from edgepress.progress import say
from edgepress.recipe import Recipe
from edgepress.recipe_order import step_name

Windows = NDArray[np.int32]
_FIRST = "first"  # a step's model, before it is solved for the whole one
_TRIED = "tried"  # what is left of the layers that may go
ZEROS_ARE_READ = (
    "TensorRT has kernels for the 2:4 pattern on Ampere and later; llama.cpp and ONNX Runtime store and multiply zeros "
    "like any other number, so their files are neither smaller nor faster"
)


def make_smaller(student: Student, step: PruneStep, recipe: Recipe, writer: Student, working: Path) -> None:
    """Write what a step leaves of a model, made up for where that can be done, into ``working``, and say what it is.

    Args:
        student: what the step is done to.
        step: which.
        recipe: with the calibration text, and the export targets that have to hold the shape.
        writer: writes that text where it is self-generated.
        working: an empty directory.
    """
    from edgepress.compress.prune.reconstruct import windows_to_start
    from edgepress.compress.prune.repair import repair

    with brief_waits():
        windows = calibration_windows(writer, recipe.calibration)
        if _is_repaired(student, step):
            first = working / _FIRST
            first.mkdir()
            trains = _is_trained(student, step)
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


def _is_trained(student: Student, step: PruneStep) -> bool:
    """Whether the feed-forwards that a step leaves are reconstructed."""
    return isinstance(step, PruneFfn) and step.reconstruct and _is_repaired(student, step)


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
    trained = _is_trained(student, step)
    least = [least_units(layer, step.keep, trained=trained) for layer in units]
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

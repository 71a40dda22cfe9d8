"""Which steps before quantize cannot be done to a student, before any work."""

from __future__ import annotations

from edgepress.artifact.families import FAMILIES
from edgepress.artifact.spec import ModelSpec
from edgepress.compress.prune.config import PruneFfn, PruneHeads, PruneHidden, PruneLayers, Sparsify
from edgepress.compress.student.student import Student
from edgepress.errors import InputError
from edgepress.pipeline.heal import check_healing
from edgepress.pipeline.held_shapes import is_held, require_unlike_held, unlike
from edgepress.pipeline.plan import make_plan
from edgepress.pipeline.reshaped import ReshapedStudent, shape_after
from edgepress.recipe import ExportTarget, Recipe
from edgepress.recipe_order import step_name

MOST_STEPS = 16


def check_pruning(student: Student, recipe: Recipe, targets: tuple[ExportTarget, ...]) -> None:
    """Refuse steps that cannot be done, and shapes that a format or an export cannot hold.

    Raises:
        InputError: a width that is no multiple, nothing left of a layer, a text or loss to heal by that does not fit,
            or too many steps.
    """
    if len(recipe.before_quantize) > MOST_STEPS:
        raise InputError(f"compress: {len(recipe.before_quantize)} steps before quantize; at most {MOST_STEPS}")
    check_healing(student, recipe)
    spec = student.spec
    for step in recipe.pruning:
        if isinstance(step, Sparsify):
            _check_sparsity(spec, step, recipe)
        if isinstance(step, PruneLayers) and step.part == "layer" and step.drop:
            _check_alternating(spec, targets)
        spec = shape_after(step, spec)
        unlike_wanted = isinstance(step, PruneFfn | PruneHeads) and step.widths == "per_layer"
        if unlike_wanted and not is_held(student, unlike(student), recipe.export, biased=False):
            require_unlike_held(student, recipe.export)
    if spec != student.spec:
        try:
            make_plan(ReshapedStudent(student, spec), recipe, targets, final=False)
        except InputError as error:
            raise InputError(
                f"with the shape that pruning leaves ({_in_words(student.spec, spec)}): {error}"
            ) from error


def _in_words(before: ModelSpec, after: ModelSpec) -> str:
    """What differs, with all layers alike."""
    first, shape = before.layers[0], after.layers[0]
    parts = [
        f"{after.hidden} channels" if after.hidden != before.hidden else "",
        f"{after.depth} layers" if after.depth != before.depth else "",
        f"{after.depth - len(after.attending)} of them without attention" if len(after.attending) < after.depth else "",
        f"feed-forward {shape.ffn} wide" if shape.ffn != first.ffn else "",
        f"{shape.heads}/{shape.kv_heads} heads"
        if (shape.heads, shape.kv_heads) != (first.heads, first.kv_heads)
        else "",
    ]
    return ", ".join(part for part in parts if part)


def _check_alternating(spec: ModelSpec, targets: tuple[ExportTarget, ...]) -> None:
    """llama.cpp knows by its place whether a layer attends to all tokens, and dropping one moves others."""
    fixed = FAMILIES[spec.family].window_pattern is not None
    if fixed and "gguf" in targets and len({layer.window for layer in spec.layers}) > 1:
        raise InputError(
            f"prune_layers: some layers of {spec.family} attend to a window and some to all tokens, in places that "
            "llama.cpp takes for granted; where a layer goes, those behind it move. Leave gguf out of export (ONNX and "
            "TensorRT hold any order), or prune neurons and heads instead"
        )


def _check_sparsity(spec: ModelSpec, step: Sparsify, recipe: Recipe) -> None:
    """Widths that divide into the pattern's groups, and steps before that leave such."""
    from edgepress.compress.prune.sparsify import check_widths, pattern_of

    pattern = pattern_of(step)
    check_widths(spec, pattern)
    for other in recipe.pruning:
        if isinstance(other, PruneFfn | PruneHidden) and pattern.of and other.multiple_of % pattern.of:
            raise InputError(
                f"{step_name(type(other))}: multiple_of {other.multiple_of} in front of sparsify, whose groups are "
                f"{pattern.of} inputs"
            )

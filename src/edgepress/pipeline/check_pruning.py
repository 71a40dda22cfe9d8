"""Which steps before quantize cannot be done to a student, before any work."""

from __future__ import annotations

from edgepress.compress.prune.config import PruneFfn, PruneHeads, PruneHidden, PruneLayers, Sparsify
from edgepress.compress.student.student import Student
from edgepress.errors import InputError
from edgepress.pipeline.heal import check_healing
from edgepress.pipeline.plan import make_plan
from edgepress.pipeline.reshaped import NarrowerStudent
from edgepress.recipe import ExportTarget, Recipe
from edgepress.recipe_order import step_name

MOST_STEPS = 16


def check_pruning(student: Student, recipe: Recipe, targets: tuple[ExportTarget, ...]) -> None:
    """Refuse steps that cannot be done, and a width that a format or an export cannot hold.

    Raises:
        InputError: a width that is no multiple, nothing left of a layer, a text or loss to heal by that does not fit,
            or too many steps.
    """
    if len(recipe.before_quantize) > MOST_STEPS:
        raise InputError(f"compress: {len(recipe.before_quantize)} steps before quantize; at most {MOST_STEPS}")
    check_healing(student, recipe)
    depth, hidden = student.spec.depth, student.spec.hidden
    for step in recipe.pruning:
        if isinstance(step, PruneLayers):
            depth = _left_of_depth(depth, step)
        elif isinstance(step, PruneHidden):
            hidden = _left_of_width(hidden, step)
        elif isinstance(step, Sparsify):
            _check_sparsity(student, step, recipe)
        else:
            _check_units(student, step)
    if hidden < student.spec.hidden:
        _check_narrower(student, hidden, recipe, targets)


def _check_narrower(student: Student, hidden: int, recipe: Recipe, targets: tuple[ExportTarget, ...]) -> None:
    """Plan with the width that will be. What an export holds may hang on heads that are still to go."""
    heads_go = any(isinstance(step, PruneHeads) for step in recipe.pruning)
    try:
        make_plan(NarrowerStudent(student, hidden), recipe, () if heads_go else targets, final=False)
    except InputError as error:
        raise InputError(f"with the {hidden} channels that prune_hidden leaves: {error}") from error


def _left_of_depth(depth: int, step: PruneLayers) -> int:
    if step.drop >= depth:
        raise InputError(f"prune_layers: drop {step.drop} of {depth} layers; one has to stay")
    return depth - step.drop


def _left_of_width(hidden: int, step: PruneHidden) -> int:
    from edgepress.compress.prune.hidden import kept_channels  # brings torch with it

    return kept_channels(hidden, step)


def _check_units(student: Student, step: PruneFfn | PruneHeads) -> None:
    """Widths that divide, and something left of every layer."""
    from edgepress.compress.prune.parts import layer_units  # brings torch with it
    from edgepress.compress.prune.widths import uniform_counts

    if isinstance(step, PruneFfn):
        widths = {layer.ffn for layer in student.spec.layers}
        if step.keep < 1 and (odd := [width for width in widths if width % step.multiple_of]):
            raise InputError(f"prune_ffn: multiple_of {step.multiple_of} does not divide the width {odd[0]}")
    units = [layer_units(step, student.spec, layer) for layer in student.spec.layers]
    uniform_counts(units, step.keep, step_name(type(step)))


def _check_sparsity(student: Student, step: Sparsify, recipe: Recipe) -> None:
    """Widths that divide into the pattern's groups, and steps before that leave such."""
    from edgepress.compress.prune.sparsify import check_widths, pattern_of

    pattern = pattern_of(step)
    check_widths(student.spec, pattern)
    for other in recipe.pruning:
        if isinstance(other, PruneFfn | PruneHidden) and pattern.of and other.multiple_of % pattern.of:
            raise InputError(
                f"{step_name(type(other))}: multiple_of {other.multiple_of} in front of sparsify, whose groups are "
                f"{pattern.of} inputs"
            )

"""A student as a recipe's steps will leave it: its shapes, without the weights, to be planned with."""

from __future__ import annotations

from functools import reduce
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.hf_config import model_spec
from edgepress.artifact.hf_shapes import with_shapes
from edgepress.artifact.spec import ModelSpec
from edgepress.compress.prune.config import PruneFfn, PruneHeads, PruneHidden, PruneLayers, PruneStep, Sparsify
from edgepress.compress.student.expected import expected_shapes
from edgepress.compress.student.student import StoredTensor, Student
from edgepress.errors import InputError
from edgepress.recipe import Recipe
from edgepress.recipe_order import step_name


class ReshapedStudent(Student):
    """With other layers, or fewer channels of the residual stream."""

    def __init__(self, student: Student, spec: ModelSpec) -> None:
        """Take the student's weights to have the shapes of ``spec``."""
        self.name, self.source, self.notes = student.name, student.source, student.notes
        tied = {"tie_word_embeddings": spec.tied}
        self.config = with_shapes(student.config | tied, spec.layers, spec.head_dim, spec.hidden)
        self.spec = model_spec(self.config, tied=spec.tied)
        shapes = expected_shapes(self.spec, self.config)
        self.tensors = {name: StoredTensor(shape, "F32") for name, shape in shapes.items()}
        self._student = student

    @property
    def tokenizer_dir(self) -> Path:
        """The student's."""
        return self._student.tokenizer_dir

    def _load(self, name: str) -> NDArray[np.float32]:
        raise AssertionError(f"{name}: only shapes are known")

    def _files(self) -> tuple[Path, ...]:
        return self._student._files()


def reshaped(student: Student, recipe: Recipe) -> Student:
    """The student with the shapes that a recipe's pruning leaves, all layers losing alike; itself where none does.

    Raises:
        InputError: as :func:`shape_after`.
    """
    spec = reduce(lambda before, step: shape_after(step, before), recipe.pruning, student.spec)
    return student if spec == student.spec else ReshapedStudent(student, spec)


def shape_after(step: PruneStep, spec: ModelSpec) -> ModelSpec:
    """The shapes that a step leaves, where all layers lose alike and the last ones are dropped.

    Raises:
        InputError: nothing would be left of something, or a width that its steps do not divide.
    """
    if isinstance(step, Sparsify):
        return spec
    if isinstance(step, PruneLayers) and step.part == "attention":
        return _without_attention(spec, step.drop)
    _require_attention(spec, step)
    if isinstance(step, PruneLayers):
        if step.drop >= spec.depth:
            raise InputError(f"prune_layers: drop {step.drop} of {spec.depth} layers; one has to stay")
        return msgspec.structs.replace(spec, layers=spec.layers[: spec.depth - step.drop])
    if isinstance(step, PruneHidden):
        from edgepress.compress.prune.hidden import kept_channels  # brings torch with it

        return msgspec.structs.replace(spec, hidden=kept_channels(spec.hidden, step))
    return _narrower(step, spec)


def _without_attention(spec: ModelSpec, drop: int) -> ModelSpec:
    attending = spec.attending
    if drop >= len(attending):
        raise InputError(
            f"prune_layers: drop {drop} with part: attention; {len(attending)} layers have attention and the first has "
            f"to keep its own, so at most {len(attending) - 1}"
        )
    return spec.without_attention(attending[len(attending) - drop :])


def _require_attention(spec: ModelSpec, step: PruneStep) -> None:
    """Steps over heads and channels take every layer to have attention, and behind one that drops layers it could not
    be told beforehand which have; those over feed-forwards take any.
    """
    if len(spec.attending) < spec.depth and not isinstance(step, PruneFfn):
        raise InputError(
            f"{step_name(type(step))}: some layers have no attention; put the step in front of the one that drops it"
        )


def _narrower(step: PruneFfn | PruneHeads, spec: ModelSpec) -> ModelSpec:
    from edgepress.compress.prune.parts import layer_units, pruned_shape  # brings torch with it
    from edgepress.compress.prune.widths import uniform_counts

    if isinstance(step, PruneFfn) and step.keep < 1:
        odd = [layer.ffn for layer in spec.layers if layer.ffn % step.multiple_of]
        if odd:
            raise InputError(f"prune_ffn: multiple_of {step.multiple_of} does not divide the width {odd[0]}")
    units = [layer_units(step, spec, layer) for layer in spec.layers]
    counts = uniform_counts(units, step.keep, step_name(type(step)))
    layers = tuple(pruned_shape(step, layer, count) for layer, count in zip(spec.layers, counts, strict=True))
    return msgspec.structs.replace(spec, layers=layers)

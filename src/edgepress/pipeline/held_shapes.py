"""Whether the targets of a recipe can hold the shapes that a pruning step would leave."""

from __future__ import annotations

import msgspec

from edgepress.artifact.families import LINEARS, layer_name
from edgepress.artifact.hf_shapes import with_shapes
from edgepress.artifact.plan import ModelPlan, TensorPlan
from edgepress.artifact.spec import LayerSpec
from edgepress.artifact.weights import WeightSource
from edgepress.compress.student.expected import expected_shapes
from edgepress.compress.student.student import Student
from edgepress.errors import InputError
from edgepress.pipeline.targets import check_support
from edgepress.progress import say
from edgepress.recipe import TARGETS, ExportTarget


def unlike(student: Student) -> tuple[LayerSpec, ...]:
    """Layers that differ, as pruning would leave them."""
    first, *others = student.spec.layers
    wider = msgspec.structs.replace(first, ffn=first.ffn * 2)
    return (wider, *others)


def is_held(
    student: Student, layers: tuple[LayerSpec, ...], targets: tuple[ExportTarget, ...], *, biased: bool
) -> bool:
    """Whether all targets can hold layers of these shapes, or biases in them."""
    plan = _float_plan(student, layers, biased=biased)
    return all(_refusal(plan, target) is None for target in targets)


def require_unlike_held(student: Student, targets: tuple[ExportTarget, ...]) -> None:
    """Refuse targets that hold no layers of unlike shapes.

    Raises:
        InputError: which one and why, and which do.
    """
    plan = _float_plan(student, unlike(student), biased=False)
    refusals = {target: refusal for target in TARGETS if (refusal := _refusal(plan, target)) is not None}
    held = ", ".join(target for target in TARGETS if target not in refusals)
    for target in targets:
        if target in refusals:
            raise InputError(f"widths: per_layer: {refusals[target]} (targets that hold it: {held or 'none'})")


def note_refused_exports(model: WeightSource) -> None:
    """Say which of GGUF and ONNX would refuse a model as it is, and why: before it is written or trained."""
    shapes = expected_shapes(model.spec, model.config)
    tensors = tuple(TensorPlan(name=name, shape=shape, format="f32") for name, shape in shapes.items())
    plan = ModelPlan(name="", spec=model.spec, config=model.config, tokenizer_dir=model.tokenizer_dir, tensors=tensors)
    targets: tuple[ExportTarget, ...] = ("gguf", "onnx")
    for target in targets:
        if (refusal := _refusal(plan, target)) is not None:
            say(f"note: as it is, this model cannot be exported to {target}: {refusal}")


def _refusal(plan: ModelPlan, target: ExportTarget) -> str | None:
    try:
        check_support(plan, target)
    except InputError as error:
        return str(error)
    return None


def _float_plan(student: Student, layers: tuple[LayerSpec, ...], *, biased: bool) -> ModelPlan:
    """A float32 model with layers of these shapes, and with biases behind its reading linears."""
    spec = msgspec.structs.replace(student.spec, layers=layers)
    config = with_shapes(student.config | {"tie_word_embeddings": spec.tied}, layers, spec.head_dim)
    shapes = expected_shapes(spec, config)
    if biased:
        for role, places in (("attn_output", spec.attending), ("ffn_down", range(spec.depth))):
            shapes |= {layer_name(i, LINEARS[role], "bias"): (spec.hidden,) for i in places}
    tensors = tuple(TensorPlan(name=name, shape=shape, format="f32") for name, shape in shapes.items())
    return ModelPlan(name="", spec=spec, config=config, tokenizer_dir=student.tokenizer_dir, tensors=tensors)

"""What cannot be exported to ONNX, said before any work."""

from __future__ import annotations

from edgepress.artifact.families import (
    EMBEDDING,
    FAMILIES,
    FINAL_NORM,
    HEAD,
    LINEARS,
    is_matrix,
    layer_name,
    linear_shapes,
)
from edgepress.artifact.formats import get_format
from edgepress.artifact.plan import ModelPlan, TensorPlan
from edgepress.artifact.spec import ModelSpec
from edgepress.errors import InputError
from edgepress.export.onnx.genai import genai_config
from edgepress.export.onnx.matmulnbits import container_block, held_formats


def check_onnx_support(plan: ModelPlan) -> None:
    """Refuse a model or a format that the exported graph could not hold.

    Raises:
        InputError: names the tensor and what would fit, or the property that is not supported.
    """
    if plan.spec.head_dim % 8:
        raise InputError(
            f"ONNX export: GroupQueryAttention needs a head_dim that is a multiple of 8, not {plan.spec.head_dim}; "
            f"export to gguf"
        )
    expected = expected_shapes(plan.spec)
    present = {tensor.name: tensor for tensor in plan.tensors}
    for name, shape in expected.items():
        if name not in present and not name.endswith(".bias"):
            raise InputError(f"ONNX export: the model lacks the tensor {name}, {list(shape)}")
    for tensor in plan.tensors:
        if tensor.name not in expected:
            raise InputError(f"ONNX export: {tensor.name} is not a tensor of {plan.spec.family} models")
        if tensor.shape != expected[tensor.name]:
            wanted = list(expected[tensor.name])
            raise InputError(f"ONNX export: {tensor.name} is {list(tensor.shape)}, wanted {wanted}")
        _check_format(tensor)
    genai_config(plan)


def expected_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Hugging Face name → shape of every tensor that the graph has a place for; biases may be absent."""
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (spec.vocab, spec.hidden)}
    for i, layer in enumerate(spec.layers):
        for part in FAMILIES[spec.family].norms_of(layer):
            per_head = part.startswith("self_attn.")
            shapes[layer_name(i, part)] = (spec.head_dim if per_head else spec.hidden,)
        for role, (rows, columns) in linear_shapes(spec, layer).items():
            shapes[layer_name(i, LINEARS[role])] = (rows, columns)
            shapes[layer_name(i, LINEARS[role], "bias")] = (rows,)
    shapes[FINAL_NORM] = (spec.hidden,)
    if not spec.tied:
        shapes[HEAD] = (spec.vocab, spec.hidden)
        shapes[HEAD.removesuffix("weight") + "bias"] = (spec.vocab,)
    return shapes


def _check_format(tensor: TensorPlan) -> None:
    spec = get_format(tensor.format)
    if spec.kind == "float":
        return
    if not is_matrix(tensor.name):
        raise InputError(f"ONNX export: {tensor.name} is stored as floats (f32 or f16), not as {tensor.format}")
    if tensor.input_format == "int8":
        return
    block, width = container_block(tensor.format), tensor.shape[1]
    if width % block:
        fitting = [name for name in held_formats() if width % container_block(name) == 0]
        raise InputError(
            f"{tensor.name}: rows of {width} values do not divide into blocks of {block} "
            f"({tensor.format}); "
            f"what fits: {', '.join(['f32', 'f16', *fitting])}"
        )

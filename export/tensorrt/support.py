"""What cannot be exported for TensorRT, said before any work."""

from __future__ import annotations

from edgepress.artifact.families import is_matrix
from edgepress.artifact.formats import FORMATS, get_format
from edgepress.artifact.plan import ModelPlan, TensorPlan
from edgepress.errors import InputError
from edgepress.export.onnx.support import expected_shapes

HELD = ("f32", "f16", "int8", "fp8", "trt_int4_64", "trt_int4_128")


def check_tensorrt_support(plan: ModelPlan) -> None:
    """Refuse a model or a format that the graph could not hold.

    Raises:
        InputError: names the tensor and what would fit, or the property that is not supported.
    """
    if plan.spec.head_dim % 2:
        raise InputError(f"TensorRT export: an odd head_dim, {plan.spec.head_dim}, cannot be rotated")
    expected = expected_shapes(plan.spec)
    present = {tensor.name for tensor in plan.tensors}
    for name, shape in expected.items():
        if name not in present and not name.endswith(".bias"):
            raise InputError(f"TensorRT export: the model lacks the tensor {name}, {list(shape)}")
    for tensor in plan.tensors:
        if tensor.name not in expected:
            raise InputError(f"TensorRT export: {tensor.name} is not a tensor of {plan.spec.family} models")
        if tensor.shape != expected[tensor.name]:
            wanted = list(expected[tensor.name])
            raise InputError(f"TensorRT export: {tensor.name} is {list(tensor.shape)}, wanted {wanted}")
        _check_format(tensor)


def _check_format(tensor: TensorPlan) -> None:
    if get_format(tensor.format).kind == "float":
        return
    if not is_matrix(tensor.name):
        raise InputError(f"TensorRT export: {tensor.name} is stored as floats (f32 or f16), not as {tensor.format}")
    if tensor.format not in HELD or not get_format(tensor.format).fits(tensor.shape[1]):
        fitting = ", ".join(name for name in HELD if FORMATS[name].fits(tensor.shape[1]))
        raise InputError(
            f"TensorRT export: {tensor.name}, rows of {tensor.shape[1]} values, cannot be {tensor.format}; "
            f"what fits: {fitting}"
        )

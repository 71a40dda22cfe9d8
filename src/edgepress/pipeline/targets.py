"""What an export target can hold, and the exact files that it makes of a model."""

from __future__ import annotations

from edgepress.artifact.plan import ModelPlan
from edgepress.artifact.tensorrt_layout import DEFAULTS, TensorrtOptions
from edgepress.recipe import ExportTarget


def check_gpus(model: ModelPlan, names: tuple[str, ...]) -> tuple[str, ...]:
    """GPUs to build TensorRT engines for → compute capabilities, each once.

    Raises:
        InputError: an unknown one, one that cannot be built for here or compute with the model, or no TensorRT-RTX.
    """
    if not names:
        return ()
    from edgepress.export.tensorrt.engine import check_targets, resolve_targets

    capabilities = resolve_targets(list(names))
    check_targets(model, capabilities)
    return capabilities


def predict_files(model: ModelPlan, target: ExportTarget, options: TensorrtOptions = DEFAULTS) -> dict[str, int]:
    """Exact bytes of every file of an export, by path below the output directory; refuses what cannot be exported."""
    check_support(model, target)
    if target == "gguf":
        from edgepress.export.gguf.writer import predict_gguf_bytes

        return {"gguf/model.gguf": predict_gguf_bytes(model)}
    if target == "tensorrt":
        from edgepress.export.tensorrt.writer import predict_tensorrt_bytes

        return {f"tensorrt/{name}": size for name, size in predict_tensorrt_bytes(model, options).items()}
    from edgepress.export.onnx.writer import predict_onnx_bytes

    return {f"onnx/{name}": size for name, size in predict_onnx_bytes(model).items()}


def check_support(model: ModelPlan, target: ExportTarget) -> None:
    """Refuse what a target cannot hold.

    Raises:
        InputError: which tensor, and what could be instead.
    """
    if target == "gguf":
        from edgepress.export.gguf.support import check_gguf_support

        check_gguf_support(model)
        return
    if target == "tensorrt":
        from edgepress.export.tensorrt.support import check_tensorrt_support

        check_tensorrt_support(model)
        return
    from edgepress.export.onnx.support import check_onnx_support

    check_onnx_support(model)

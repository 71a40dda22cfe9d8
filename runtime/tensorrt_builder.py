"""From an exported graph to the bytes of an engine: what TensorRT 10 and TensorRT-RTX have in common.

Strongly typed networks, so that no precision is chosen but those in the graph; one optimization profile for prompts and
one for single tokens, in this order.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from edgepress.artifact.tensorrt_layout import TensorrtLayout
from edgepress.errors import EdgepressError

PROFILES: tuple[Literal["prefill", "decode"], ...] = ("prefill", "decode")


def error_logger(trt: Any) -> Any:
    """A logger that keeps TensorRT's errors in ``errors`` instead of printing them."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    return Logger()


def serialized_engine(trt: Any, graph: Path, layout: TensorrtLayout, configure: Callable[[Any], None]) -> Any:
    """Build an engine.

    Args:
        trt: the module ``tensorrt`` or ``tensorrt_rtx``.
        graph: ``model.onnx``, its weights beside it.
        layout: its names, shapes and profiles.
        configure: sets what is particular to the place: compute capability, memory limits, caches.

    Returns:
        TensorRT's buffer, which holds the engine.

    Raises:
        EdgepressError: TensorRT cannot read the graph or build it; with its own first reason.
    """
    logger = error_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        reason = parser.get_error(0).desc() if parser.num_errors else "no reason given"
        raise EdgepressError(f"{graph}: TensorRT cannot read the graph: {' '.join(reason.split())[:300]}")
    config = builder.create_builder_config()
    for name in PROFILES:
        profile = builder.create_optimization_profile()
        for tensor, shapes in layout.shapes(name).items():
            profile.set_shape(tensor, *shapes)
        config.add_optimization_profile(profile)
    configure(config)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        reason = logger.errors[0] if logger.errors else "no reason given"
        raise EdgepressError(f"{graph}: TensorRT cannot build an engine: {reason[:400]}")
    return engine

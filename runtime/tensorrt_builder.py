"""From an exported graph to the bytes of an engine: what TensorRT 10 and TensorRT-RTX have in common.

Strongly typed networks, so that no precision is chosen but those in the graph; the optimization profiles of the
layout, in its order: of a decoder one for prompts and one for single tokens, or one for both.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgepress.artifact.encoder_layout import EncoderLayout
from edgepress.artifact.tensorrt_layout import Profiles, Shapes, TensorrtLayout
from edgepress.errors import EdgepressError, InputError

Layout = TensorrtLayout | EncoderLayout


def profile_shapes(layout: Layout) -> dict[str, dict[str, Shapes]]:
    """Least, usual and greatest shape of every input, by profile, in the order that engines have them."""
    if isinstance(layout, TensorrtLayout):
        return {name: layout.shapes(name) for name in layout.ranges}
    return {name: layout.shapes(name) for name in layout.profiles}


def has_sparse_weights(layout: Layout) -> bool:
    """Whether kernels for the 2:4 pattern are to be tried."""
    return isinstance(layout, TensorrtLayout) and bool(layout.sparse_weights)


def settled(layout: Layout, library: str, asked: Profiles | None = None) -> Layout:
    """A layout whose number of profiles is settled; see :meth:`TensorrtLayout.settled`.

    Raises:
        InputError: asked for an encoder, which has its one.
    """
    if isinstance(layout, TensorrtLayout):
        return layout.settled(library, asked)
    if asked is not None:
        raise InputError("profiles: an encoder's engine has one profile; the choice is a decoder's")
    return layout


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


def started(trt: Any, kind: Callable[[Any], Any], logger: Any) -> Any:
    """A ``trt.Builder`` or ``trt.Runtime``.

    Raises:
        EdgepressError: the library gives none, as where its CUDA and the driver do not go together; with its reason.
    """
    try:
        return kind(logger)
    except TypeError as error:  # what its bindings make of a null pointer
        reason = logger.errors[0][:300] if logger.errors else f"{error}; is the NVIDIA driver new enough for it?"
        raise EdgepressError(f"{trt.__name__} {trt.__version__} cannot start here: {reason}") from error


def serialized_engine(trt: Any, graph: Path, layout: Layout, configure: Callable[[Any], None]) -> Any:
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
    build = Build(trt, graph, layout, configure)
    return build.check(build.builder.build_serialized_network(build.network, build.config))


def write_engine(trt: Any, graph: Path, layout: Layout, configure: Callable[[Any], None], path: Path) -> None:
    """Build an engine into a file; where the API can, without holding it in memory as a whole.

    Raises:
        EdgepressError: as :func:`serialized_engine`.
        OSError: the file cannot be written, such as on a full disk.
    """
    build = Build(trt, graph, layout, configure)
    forget_pages(graph.parent)
    if not hasattr(build.builder, "build_serialized_network_to_stream"):
        path.write_bytes(build.check(build.builder.build_serialized_network(build.network, build.config)))
        return
    with path.open("wb") as stream:
        sink = _sink(trt, stream.write)
        done = build.builder.build_serialized_network_to_stream(build.network, build.config, sink)
        if sink.failure is not None:  # TensorRT goes on without what could not be written, and calls it done
            raise sink.failure
        build.check(True if done else None)


def forget_pages(directory: Path) -> None:
    """Advise the system to drop the page cache of a model's weights: on a board with shared memory the copy that
    TensorRT has made would otherwise exist twice.
    """
    for file in directory.glob("*.onnx*"):
        with file.open("rb") as stream:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Build:
    """A parsed, configured network: ``builder``, ``network`` and ``config``, alive as long as this is."""

    def __init__(self, trt: Any, graph: Path, layout: Layout, configure: Callable[[Any], None]) -> None:
        self._graph, self._logger = graph, error_logger(trt)
        self.builder = started(trt, trt.Builder, self._logger)
        self.network = self.builder.create_network(_network_flags(trt))
        self._parser = trt.OnnxParser(self.network, self._logger)
        if not self._parser.parse_from_file(str(graph)):
            reason = self._parser.get_error(0).desc() if self._parser.num_errors else "no reason given"
            raise EdgepressError(f"{graph}: TensorRT cannot read the graph: {' '.join(reason.split())[:300]}")
        self.config = self.builder.create_builder_config()
        for tensors in profile_shapes(layout).values():
            profile = self.builder.create_optimization_profile()
            for tensor, shapes in tensors.items():
                try:
                    profile.set_shape(tensor, *shapes)
                except RuntimeError as error:
                    raise EdgepressError(f"{graph}: TensorRT refuses the shapes {shapes} of {tensor}") from error
            self.config.add_optimization_profile(profile)
        self.config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and it rounds the factors of float32 products
        if has_sparse_weights(layout):
            self.config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
        configure(self.config)

    def check(self, built: Any) -> Any:
        """What was built, unless it was not.

        Raises:
            EdgepressError: with TensorRT's first reason.
        """
        if built is None:
            reason = self._logger.errors[0] if self._logger.errors else "no reason given"
            raise EdgepressError(f"{self._graph}: TensorRT cannot build an engine: {reason[:400]}")
        return built


def _network_flags(trt: Any) -> int:
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _sink(trt: Any, write: Callable[[bytes], int]) -> Any:
    class Sink(trt.IStreamWriter):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.failure: OSError | None = None

        def write(self, data: bytes) -> int:
            if self.failure is None:
                try:
                    return write(data)
                except OSError as error:
                    self.failure = error
            return 0

    return Sink()

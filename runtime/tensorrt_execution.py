"""An engine read by TensorRT, checked against the export's layout, and run step by step.

TensorRT-RTX compiles kernels when they are first needed. They are kept beside the engine (``model.cache``), and steps
whose shapes come back are replayed as CUDA graphs by its runtime. TensorRT itself gets no CUDA graph: with a cache that
grows by a token, no two steps have the same shapes.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgepress.artifact.files import write_atomically
from edgepress.errors import EdgepressError, InputError
from edgepress.runtime.tensorrt_builder import Layout, error_logger, profile_shapes, started

CACHE_FILE = "model.cache"


class TensorrtExecution:
    """A deserialized engine and its context. Satisfies :class:`~edgepress.runtime.cuda.Execution`."""

    def __init__(self, trt: Any, file: Path, layout: Layout, stream: int) -> None:
        """Read an engine.

        Args:
            trt: the library that built it.
            file: the engine.
            layout: of the export that it was made of.
            stream: handle of the CUDA stream that steps go to.

        Raises:
            EdgepressError: TensorRT cannot start here.
            InputError: TensorRT cannot read it here, or it is of another export.
        """
        self._trt, self._stream, self._profile = trt, stream, -1
        self._logger = error_logger(trt)
        self._runtime = started(trt, trt.Runtime, self._logger)
        self._engine = _deserialized(self._runtime, file)
        if self._engine is None:
            reason = self._logger.errors[0] if self._logger.errors else "no reason given"
            raise InputError(f"{file}: {trt.__name__} {trt.__version__} cannot open this engine here: {reason[:300]}")
        check_engine(self._engine, layout, file)
        self._cache_file = file.with_name(CACHE_FILE)
        self._cache: Any = None
        self._context = self._new_context()

    def run(self, profile: int, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int]) -> None:
        """See :class:`~edgepress.runtime.cuda.Execution`.

        Raises:
            EdgepressError: TensorRT refuses a shape, or cannot enqueue the step.
        """
        context = self._context
        if profile != self._profile:
            try:
                taken = context.set_optimization_profile_async(profile, self._stream)
            except RuntimeError:  # what the bindings of some versions make of False
                taken = False
            if not taken:
                raise self._failure(f"cannot take up profile {profile}")
            self._profile = profile
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise self._failure(f"refuses shape {shape} of {name}")
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise self._failure(f"refuses the address of {name}")
        if not context.execute_async_v3(self._stream):
            raise self._failure("cannot run the step")

    def close(self) -> None:
        """Free the engine, and keep the kernels that were compiled."""
        if self._cache is not None:
            compiled = self._cache.serialize()
            if compiled is not None:
                write_atomically(self._cache_file, bytes(memoryview(compiled)))
        self._cache = self._context = self._engine = self._runtime = None

    def _new_context(self) -> Any:
        if hasattr(self._trt, "IRuntimeCache"):
            context = self._engine.create_execution_context(self._runtime_config())
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise self._failure("cannot allocate what the engine needs; use a smaller context or stop other programs")
        return context

    def _runtime_config(self) -> Any:
        config = self._engine.create_runtime_config()
        config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._cache = config.create_runtime_cache()
        if self._cache_file.is_file():
            self._cache.deserialize(self._cache_file.read_bytes())
        config.set_runtime_cache(self._cache)
        return config

    def _failure(self, what: str) -> EdgepressError:
        reason = f": {self._logger.errors[-1][:300]}" if self._logger.errors else ""
        return EdgepressError(f"TensorRT {what}{reason}")


def _deserialized(runtime: Any, file: Path) -> Any:
    """The file's pages can be taken back while the engine is made of them; a copy of them could not."""
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as serialized:
            return runtime.deserialize_cuda_engine(serialized)
    except (OSError, ValueError) as error:  # an empty file is a ValueError
        raise InputError(f"{file}: cannot be read as an engine ({error}); build it again") from error


def check_engine(engine: Any, layout: Layout, file: Path) -> None:
    """Names and profiles of an engine are those of the layout.

    Raises:
        InputError: what differs; the engine is of another export.
    """
    found = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
    odd = sorted(found ^ {*layout.inputs, *layout.outputs})
    if odd:
        raise InputError(
            f"{file}: {odd[0]} is in {'the engine' if odd[0] in found else 'the export'} only; build again"
        )
    for index, shapes in enumerate(profile_shapes(layout).values()):
        for name, wanted in shapes.items():
            have = tuple(tuple(shape) for shape in engine.get_tensor_profile_shape(name, index))
            if have != tuple(wanted):
                raise InputError(f"{file}: built for shapes {have} of {name}, the export has {wanted}; build again")

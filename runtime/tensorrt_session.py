"""TensorRT and TensorRT-RTX on an NVIDIA GPU: a Session over an export with an engine that was built for it.

Not run on a GPU yet: everything above :mod:`edgepress.runtime.cuda` and :mod:`edgepress.runtime.tensorrt_execution` is
tested with ONNX Runtime in their place, those two only as far as a machine without a GPU allows.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from edgepress.artifact.tensorrt_layout import read_layout
from edgepress.errors import InputError
from edgepress.runtime.cuda import PycudaDevice
from edgepress.runtime.cuda_device import read_gpu
from edgepress.runtime.session import ClosingSession, Logits, SessionMemory, resident_bytes
from edgepress.runtime.tensorrt_decoder import DeviceDecoder
from edgepress.runtime.tensorrt_engines import engine_for
from edgepress.runtime.tensorrt_execution import TensorrtExecution

_LIBRARIES = ("tensorrt", "tensorrt_rtx")


def installed_libraries() -> dict[str, Any]:
    """TensorRT's modules that can be imported, by name."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.import_module(name)
        except ImportError:
            continue
    return found


class TensorrtSession(ClosingSession):
    """A Session over a directory with ``tensorrt.json`` and ``engines/``."""

    engine = "tensorrt"
    engine_version: str

    def __init__(self, directory: Path, *, context: int | None = None, threads: int | None = None) -> None:
        """Load the engine that fits this GPU.

        Args:
            directory: the export.
            context: tokens that the key-value cache is allocated for; None takes the model's limit.
            threads: not used by a GPU.

        Raises:
            InputError: no engine for this GPU or version, pycuda is missing, or too little memory.
        """
        del threads
        layout, libraries, gpu = read_layout(directory), installed_libraries(), read_gpu()
        if context is not None and not 0 < context <= layout.context:
            raise InputError(f"a context of {context} tokens was asked for; this model takes 1 to {layout.context}")
        found = engine_for(directory, gpu, {name: str(trt.__version__) for name, trt in libraries.items()})
        layout = layout.settled(found.place.builder, found.profiles)
        trt = libraries[found.place.builder]
        assert gpu is not None
        self.engine_version = f"{found.place.builder} {trt.__version__}, {gpu.name}"
        self.vocab_size, self.context_limit = layout.vocab, context or layout.context
        self._weights_bytes = found.file.stat().st_size
        self._device = PycudaDevice()
        try:
            self._execution = TensorrtExecution(trt, found.file, layout, self._device.stream)
            self._decoder = DeviceDecoder(layout, self.context_limit, self._device, self._execution)
        except Exception:
            self._device.close()
            raise
        self._open = True

    @property
    def position(self) -> int:
        """Tokens in the cache."""
        return self._decoder.position

    def prefill(self, tokens: Sequence[int], *, logits: Literal["all", "last"] = "all") -> Logits:
        """See :class:`~edgepress.runtime.session.Session`."""
        self.check_tokens(tokens, self.position)
        return self._decoder.append(tokens, logits)

    def decode(self, token: int) -> Logits:
        """See :class:`~edgepress.runtime.session.Session`."""
        row: Logits = self.prefill([token], logits="last")[0]
        return row

    def reset(self) -> None:
        """Empty the cache."""
        self._decoder.reset()

    def memory(self) -> SessionMemory:
        """Bytes held now; weights are counted as they are in the engine's file."""
        return SessionMemory(
            weights_bytes=self._weights_bytes,
            kv_cache_bytes=self._decoder.memory.kv_cache_bytes,
            rss_bytes=resident_bytes(),
        )

    def close(self) -> None:
        """Free the engine and all device memory."""
        if self._open:
            self._execution.close()
            self._device.close()
            self._open = False

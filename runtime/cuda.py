"""The part of CUDA that a session touches: memory, copies, one stream. All that has to be trusted without a GPU to test
it on is behind these two Protocols; everything above them runs on any machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import require
from edgepress.runtime.cuda_device import free_gpu_bytes, read_gpu


class Device(Protocol):
    """Memory that is addressed by integers, and copies in the order of one stream."""

    stream: int

    def allocate(self, size_bytes: int) -> int:
        """The address of new memory; at least one byte, so that an empty tensor has an address too."""

    def copy_in(self, address: int, values: NDArray[Any]) -> None:
        """Copy an array to an address; the array may change when this returns."""

    def copy_out(self, address: int, values: NDArray[Any]) -> None:
        """Fill an array from an address; done when this returns, and all work before it."""

    def free_bytes(self) -> int:
        """Memory that can be allocated now."""

    def close(self) -> None:
        """Free all memory."""


class Execution(Protocol):
    """One step of a model whose tensors lie at given addresses."""

    def run(self, profile: int, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int]) -> None:
        """Enqueue the step on the device's stream."""

    def close(self) -> None:
        """Free what the execution holds."""


class PycudaDevice:
    """The first GPU, by pycuda, in its primary context, which TensorRT uses too."""

    def __init__(self) -> None:
        self._driver: Any = require("pycuda.driver", "tensorrt")
        self._driver.init()
        self._context: Any = self._driver.Device(0).retain_primary_context()
        self._context.push()
        self._stream: Any = self._driver.Stream()
        self.stream = int(self._stream.handle)
        self._held: list[Any] = []

    def allocate(self, size_bytes: int) -> int:
        """See :class:`Device`."""
        memory = self._driver.mem_alloc(max(1, size_bytes))
        self._held.append(memory)
        return int(memory)

    def copy_in(self, address: int, values: NDArray[Any]) -> None:
        """See :class:`Device`. A copy from pageable memory returns when the source has been read."""
        self._driver.memcpy_htod_async(address, np.ascontiguousarray(values), self._stream)
        self._stream.synchronize()

    def copy_out(self, address: int, values: NDArray[Any]) -> None:
        """See :class:`Device`."""
        self._driver.memcpy_dtoh_async(values, address, self._stream)
        self._stream.synchronize()

    def free_bytes(self) -> int:
        """See :class:`Device`."""
        free = free_gpu_bytes(read_gpu())
        return int(self._driver.mem_get_info()[0]) if free is None else free

    def close(self) -> None:
        """See :class:`Device`."""
        for memory in self._held:
            memory.free()
        self._held = []
        if self._context is not None:
            self._context.pop()
            self._context = None

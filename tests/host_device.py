"""A device and an execution on the processor: memory at real addresses, steps computed by ONNX Runtime.

What TensorRT would refuse is refused: shapes outside the profile, a tensor without an address, an output that lies on
an input.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgepress.runtime.tensorrt_builder import Layout, profile_shapes

TYPES = {"tensor(int64)": np.int64, "tensor(float16)": np.float16, "tensor(float)": np.float32}


class HostDevice:
    """Memory of this process."""

    stream = 0

    def __init__(self, free_bytes: int = 1 << 30) -> None:
        self._free = free_bytes
        self.held: dict[int, Any] = {}

    def allocate(self, size_bytes: int) -> int:
        memory = ctypes.create_string_buffer(b"\xff" * max(1, size_bytes), max(1, size_bytes))  # NaN until written
        self.held[ctypes.addressof(memory)] = memory
        return ctypes.addressof(memory)

    def copy_in(self, address: int, values: NDArray[Any]) -> None:
        data = values.tobytes()
        self._check(address, len(data))
        ctypes.memmove(address, data, len(data))

    def copy_out(self, address: int, values: NDArray[Any]) -> None:
        self._check(address, values.nbytes)
        ctypes.memmove(values.ctypes.data, address, values.nbytes)

    def free_bytes(self) -> int:
        return self._free

    def close(self) -> None:
        self.held.clear()

    def _check(self, address: int, size: int) -> None:
        assert any(start <= address and address + size <= start + len(held) for start, held in self.held.items())


class HostExecution:
    """ONNX Runtime, reading and writing at addresses."""

    def __init__(self, directory: Path, layout: Layout, device: HostDevice) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        path = str(directory / "model.onnx")
        self._session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._profiles = list(profile_shapes(layout).values())
        self._device = device
        self.profiles_used: list[int] = []

    def run(self, profile: int, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int]) -> None:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        assert set(shapes) == {entry.name for entry in inputs}
        assert set(addresses) == {entry.name for entry in [*inputs, *outputs]}
        assert len(set(addresses.values())) == len(addresses)
        feeds = {}
        for entry in inputs:
            least, _, most = self._profiles[profile][entry.name]
            shape = shapes[entry.name]
            assert all(a <= size <= b for a, size, b in zip(least, shape, most, strict=True)), (entry.name, shape)
            feeds[entry.name] = self._array(addresses[entry.name], TYPES[entry.type], shape)
        for entry, values in zip(outputs, self._session.run(None, feeds), strict=True):
            assert values.dtype == TYPES[entry.type]
            self._device.copy_in(addresses[entry.name], values)
        self.profiles_used.append(profile)

    def close(self) -> None:
        del self._session

    def _array(self, address: int, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        values = np.empty(prod(shape), dtype)
        self._device.copy_out(address, values)
        return values.reshape(shape)

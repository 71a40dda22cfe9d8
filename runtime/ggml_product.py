"""ggml's own matrix product with weights that no model file holds: what one linear costs in llama.cpp on this CPU.

llama.cpp keeps a weight in the first buffer type of the CPU that supports the product: some repack the blocks of a
format for wider instructions (CPU_REPACK, AMX), the plain one takes what is left. Here the same list is asked in the
same order, so that the kernels timed are those that a model file gets. The graph holds one product per copy of the
weights, which all read one input and write one output, as the layers of a model do one after another.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from edgepress.artifact.formats import get_format
from edgepress.artifact.ggml_types import GGML_TYPES
from edgepress.errors import EdgepressError
from edgepress.runtime.ggml_library import Handle, InitParams, ggml_library
from edgepress.runtime.llamacpp_library import library

_CPU = 0  # GGML_BACKEND_DEVICE_TYPE_CPU
_F32 = 0
_PATTERN_ROWS = 32  # quantized once and repeated: the time of a product does not depend on the values
_NODE_BYTES = 4096  # room for the records of a tensor and its place in a graph, a few hundred bytes each
_ALIGNMENT = 128


class GgmlProduct:
    """``copies`` products of one shape and format in one graph. Use with ``with``.

    ``kernels`` names the buffer type that the weights lie in, which decides who multiplies. ``input`` is float32,
    (tokens, columns); the weights repeat the rows of ``pattern``, float32, as the format rounds them.
    """

    engine = "llama.cpp"

    def __init__(
        self,
        format: str,
        shape: tuple[int, int],
        *,
        tokens: int,
        copies: int,
        threads: int,
        repacked: bool | None = None,
    ) -> None:
        """Make the weights and the graph.

        Args:
            format: the weights' format.
            shape: (rows, columns) of the matrix.
            tokens: rows of activations.
            copies: different weights in memory, gone through one after another.
            threads: CPU threads.
            repacked: whether weights are repacked where the processor gains by it; None where that is known to work.
        """
        self._api = ggml_library()
        self._repacked = library().repacks if repacked is None else repacked
        self._free: list[Callable[[], None]] = []
        self._type = next(kind for kind, entry in GGML_TYPES.items() if entry.name.lower() == format.lower())
        self._shape, self._tokens, self._copies = shape, tokens, copies
        try:
            self._open_backend(threads)
            self._make_weights(format)
            self._make_graph()
        except BaseException:
            self.close()
            raise

    @property
    def engine_version(self) -> str:
        """Versions of the engine."""
        return library().version

    def run(self) -> None:
        """Compute all copies' products once.

        Raises:
            EdgepressError: ggml failed.
        """
        status = self._api.ggml_backend_graph_compute(self._backend, self._graph)
        if status:
            raise EdgepressError(f"ggml: computing {self._copies} products returned {status}")

    def output(self) -> NDArray[np.float32]:
        """What the last copy's product wrote, float32, (tokens, rows)."""
        values = np.empty((self._tokens, self._shape[0]), np.float32)
        self._api.ggml_backend_tensor_get(self._products[-1], values.ctypes.data, 0, values.nbytes)
        return values

    def close(self) -> None:
        """Free everything, last made first."""
        while self._free:
            self._free.pop()()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_backend(self, threads: int) -> None:
        api = self._api
        self._device = _made(api.ggml_backend_dev_by_type(_CPU), "a CPU device")
        self._backend = _made(api.ggml_backend_dev_init(self._device, None), "the CPU backend")
        self._free.append(partial(api.ggml_backend_free, self._backend))
        set_threads = self._address(b"ggml_backend_set_n_threads", None, Handle, ctypes.c_int)
        if set_threads is None:
            raise EdgepressError("ggml: its CPU backend does not let the threads be set")
        set_threads(self._backend, threads)

    def _make_weights(self, format: str) -> None:
        """Copies of one random matrix, each at its own place, in the buffer type that llama.cpp would take."""
        rows, columns = self._shape
        rng = np.random.default_rng(0)
        self.input = rng.standard_normal((self._tokens, columns)).astype(np.float32)
        self.pattern = rng.standard_normal((min(_PATTERN_ROWS, rows), columns)).astype(np.float32)
        row_bytes = get_format(format).tensor_bytes(columns)
        packed = np.empty(len(self.pattern) * row_bytes, np.uint8)
        count = len(self.pattern)
        self._api.ggml_quantize_chunk(self._type, self.pattern.ctypes.data, packed.ctypes.data, 0, count, columns, None)
        data = np.resize(packed.reshape(count, row_bytes), (rows, row_bytes))
        weights = self._allocate_weights()
        for weight in weights:
            self._api.ggml_backend_tensor_set(weight, data.ctypes.data, 0, data.nbytes)
        self._weights = weights

    def _allocate_weights(self) -> list[int]:
        api, plain = self._api, self._api.ggml_backend_dev_buffer_type(self._device)
        for buffer_type in (*self._extra_buffer_types(), plain):
            context = self._context(_NODE_BYTES * (self._copies + 2))
            weights = [
                api.ggml_new_tensor_2d(context, self._type, self._shape[1], self._shape[0]) for _ in range(self._copies)
            ]
            buffer = _made(api.ggml_backend_alloc_ctx_tensors_from_buft(context, buffer_type), "room for the weights")
            if buffer_type == plain or self._supported(weights[0]):
                self.kernels = str(api.ggml_backend_buft_name(buffer_type).decode())
                self._free.append(partial(api.ggml_backend_buffer_free, buffer))
                return weights
            api.ggml_backend_buffer_free(buffer)
        raise AssertionError("the plain buffer type takes everything")

    def _supported(self, weight: int) -> bool:
        """Whether the CPU multiplies with a weight that lies where it lies."""
        context = self._context(4 * _NODE_BYTES)
        x = self._api.ggml_new_tensor_2d(context, _F32, self._shape[1], self._tokens)
        product = self._api.ggml_mul_mat(context, weight, x)
        return bool(self._api.ggml_backend_dev_supports_op(self._device, product))

    def _extra_buffer_types(self) -> list[int]:
        if not self._repacked:
            return []
        get = self._address(b"ggml_backend_dev_get_extra_bufts", ctypes.POINTER(Handle), Handle)
        found = get(self._device) if get is not None else None
        types: list[int] = []
        while found and found[len(types)]:
            types.append(found[len(types)])
        return types

    def _make_graph(self) -> None:
        api, rows, columns = self._api, *self._shape
        context = self._context(_NODE_BYTES * (self._copies + 8))
        x = api.ggml_new_tensor_2d(context, _F32, columns, self._tokens)
        self._products = [api.ggml_mul_mat(context, weight, x) for weight in self._weights]
        room = -(-self.input.nbytes // _ALIGNMENT) * _ALIGNMENT
        plain = api.ggml_backend_dev_buffer_type(self._device)
        buffer = _made(
            api.ggml_backend_buft_alloc_buffer(plain, room + 4 * rows * self._tokens + _ALIGNMENT),
            "room for activations",
        )
        self._free.append(partial(api.ggml_backend_buffer_free, buffer))
        base = api.ggml_backend_buffer_get_base(buffer)
        api.ggml_backend_tensor_alloc(buffer, x, base)
        api.ggml_backend_tensor_set(x, self.input.ctypes.data, 0, self.input.nbytes)
        for product in self._products:
            api.ggml_backend_tensor_alloc(buffer, product, base + room)
        self._graph = _made(api.ggml_new_graph_custom(context, 4 * (self._copies + 8), False), "a graph")
        for product in self._products:
            api.ggml_build_forward_expand(self._graph, product)

    def _context(self, size: int) -> int:
        """Room for records of tensors and graphs; their values lie elsewhere."""
        context = _made(self._api.ggml_init(InitParams(size, None, True)), "a context")
        self._free.append(partial(self._api.ggml_free, context))
        return context

    def _address(self, name: bytes, result: Any, *arguments: Any) -> Any:
        """A function that the CPU backend offers by name; None where it does not."""
        register = self._api.ggml_backend_dev_backend_reg(self._device)
        address = self._api.ggml_backend_reg_get_proc_address(register, name)
        return ctypes.CFUNCTYPE(result, *arguments)(address) if address else None


def _made(handle: int | None, what: str) -> int:
    if not handle:
        raise EdgepressError(f"ggml: no memory for {what}, or the build has none")
    return handle

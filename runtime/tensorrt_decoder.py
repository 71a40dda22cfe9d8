"""Prompts and single tokens through a decoder whose cache lies in device memory, on any device and any execution.

Two buffers for every layer's keys and values: a step reads the past from one and writes past and new tokens into the
other, then they change places. In place is impossible with the layout (batch, kv_heads, tokens, head_dim): every head's
start moves when the tokens grow. All buffers are allocated when the decoder is made, for the whole context.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.tensorrt_layout import ProfileName, TensorrtLayout
from edgepress.errors import InputError
from edgepress.runtime.cuda import Device, Execution
from edgepress.runtime.session import Logits

_HALF_BYTES, _FLOAT_BYTES, _ID_BYTES = 2, 4, 8
_PAST, _PRESENT = "past_key_values.", "present."


class DeviceMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of the buffers of a decoder."""

    kv_cache_bytes: int
    logits_bytes: int
    input_bytes: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.kv_cache_bytes + self.logits_bytes + self.input_bytes


def device_memory(layout: TensorrtLayout, context: int) -> DeviceMemory:
    """What a decoder will allocate for one sequence of a context."""
    longest = longest_call(layout, context)
    heads = sum(layer.kv_heads for layer in layout.layers)
    return DeviceMemory(
        kv_cache_bytes=2 * 2 * heads * context * layout.head_dim * _HALF_BYTES,
        logits_bytes=longest * layout.vocab * _FLOAT_BYTES,
        input_bytes=(2 * longest + context) * _ID_BYTES,
    )


def longest_call(layout: TensorrtLayout, context: int) -> int:
    """Tokens that one step may take."""
    return min(layout.call_tokens, context)


class DeviceDecoder:
    """One sequence. ``position`` counts the tokens in the cache."""

    def __init__(self, layout: TensorrtLayout, context: int, device: Device, execution: Execution) -> None:
        """Allocate.

        Raises:
            InputError: the buffers do not fit what is free on the device.
        """
        self._layout, self._device, self._execution = layout, device, execution
        self._longest = longest_call(layout, context)
        self._profiles = {name: index for index, name in enumerate(layout.ranges)}
        self.memory = device_memory(layout, context)
        free = device.free_bytes()
        if self.memory.total > free:
            raise InputError(
                f"a context of {context} tokens needs {self.memory.total >> 20} MiB on the GPU, {free >> 20} MiB are "
                "free; open it with a smaller context"
            )
        self.position = 0
        self._ids, self._positions = (device.allocate(self._longest * _ID_BYTES) for _ in range(2))
        self._mask = device.allocate(context * _ID_BYTES)
        self._logits = device.allocate(self.memory.logits_bytes)
        sides = [layer.kv_heads * context * layout.head_dim * _HALF_BYTES for layer in layout.layers for _ in range(2)]
        self._past, self._present = ([device.allocate(size) for size in sides] for _ in range(2))
        device.copy_in(self._mask, np.ones(context, np.int64))

    def append(self, tokens: Sequence[int], wanted: Literal["all", "last"]) -> Logits:
        """Append tokens to the cache; the logits of all, float32 (tokens, vocab), or of the last, (1, vocab)."""
        ids = np.asarray(tokens, np.int64)
        rows = np.empty((len(ids) if wanted == "all" else 1, self._layout.vocab), np.float32)
        for start in range(0, len(ids), self._longest):
            call = ids[start : start + self._longest]
            self._step(call)
            if wanted == "all":
                self._device.copy_out(self._logits, rows[start : start + len(call)])
            elif start + len(call) == len(ids):
                last = self._logits + (len(call) - 1) * self._layout.vocab * _FLOAT_BYTES
                self._device.copy_out(last, rows)
        return rows

    def reset(self) -> None:
        """Empty the cache."""
        self.position = 0

    def _step(self, ids: NDArray[np.int64]) -> None:
        past, new = self.position, len(ids)
        self._device.copy_in(self._ids, ids)
        self._device.copy_in(self._positions, np.arange(past, past + new, dtype=np.int64))
        name: ProfileName = "decode" if new == 1 else "prefill"
        profile = self._profiles.get(name, 0)  # 0: the one for both
        self._execution.run(profile, self._shapes(past, new), self._addresses())
        self._past, self._present = self._present, self._past
        self.position += new

    def _shapes(self, past: int, new: int) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        for name in self._layout.inputs:
            if name.startswith(_PAST):
                heads = self._layout.layers[int(name.split(".")[1])].kv_heads
                found[name] = (1, heads, past, self._layout.head_dim)
            else:
                found[name] = (1, past + new) if name == "attention_mask" else (1, new)
        return found

    def _addresses(self) -> dict[str, int]:
        past = [name for name in self._layout.inputs if name.startswith(_PAST)]
        present = [name for name in self._layout.outputs if name.startswith(_PRESENT)]
        named = {"input_ids": self._ids, "position_ids": self._positions, "attention_mask": self._mask}
        caches = zip([*past, *present], [*self._past, *self._present], strict=True)
        return {**named, "logits": self._logits, **dict(caches)}

"""A graph under construction, as plain records: nodes, and initializers that know where their bytes come from.

No weight is read here. An initializer is a list of pieces, each one part of one tensor of the checkpoint, written one
after another at a fixed offset of the data file; so the file's size is known before any weight exists, and writing it
is a walk over the pieces. Two initializers may name the same bytes in different shapes (:meth:`Graph.view`).

Offsets: multiples of 64 bytes, and of the 4096-byte page from 1 MiB on, so that a runtime can map large ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Literal

import msgspec
import numpy as np

MICROSOFT = "com.microsoft"

Dtype = Literal["uint8", "int8", "int4", "float8e4m3fn", "float16", "float32"]
Packed = Literal["codes", "rows", "scales", "offsets"]
Static = Literal["levels", "row_scales", "input_scale"]
Signed = Literal["level_rows", "blocks", "block_scales", "block_rows", "block_row_scales"]
Part = Packed | Static | Signed | Literal["values", "gain", "zeros", "cos", "sin", "cos_local", "sin_local"]

ITEM_BITS: dict[Dtype, int] = {"uint8": 8, "int8": 8, "int4": 4, "float8e4m3fn": 8, "float16": 16, "float32": 32}


class Float8(msgspec.Struct, frozen=True):
    """A scalar of E4M3, by its byte."""

    byte: int


# int64 vector, float32 scalar, uint8 scalar, scalar of its own type.
Constant = tuple[int, ...] | float | bytes | np.int8 | np.int64 | Float8
_PAGE_FROM_BYTES = 1 << 20


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """A run of bytes: one part of one tensor. ``tensor`` is a Hugging Face name, or empty for rotary tables."""

    tensor: str
    part: Part


class Initializer(msgspec.Struct, frozen=True, kw_only=True):
    """A constant in the data file; ``pieces`` is empty in a view of another initializer's bytes."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    offset: int
    pieces: tuple[Piece, ...]

    @property
    def length(self) -> int:
        """Bytes in the data file; two values of four bits to a byte."""
        return _bytes(self.shape, self.dtype)


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One operator. An empty input or output name means that it is left out."""

    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """An input or output of the graph; a string dimension is dynamic."""

    name: str
    dtype: Literal["int64", "float16", "float32"]
    shape: tuple[int | str, ...]


def _bytes(shape: tuple[int, ...], dtype: Dtype) -> int:
    return -(-prod(shape) * ITEM_BITS[dtype] // 8)


class Graph:
    """Collects nodes and lays initializers out in the data file, in the order in which they are asked for."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.initializers: list[Initializer] = []
        self.constants: dict[str, Constant] = {}
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.data_bytes = 0
        self._by_name: dict[str, Initializer] = {}
        self._once: dict[str, str] = {}

    def node(
        self, op: str, inputs: Sequence[str], outputs: str | Sequence[str], *, domain: str = "", **attrs: Any
    ) -> str:
        """Append an operator; return the name of its first output."""
        names = (outputs,) if isinstance(outputs, str) else tuple(outputs)
        self.nodes.append(Node(op=op, domain=domain, inputs=tuple(inputs), outputs=names, attributes=attrs))
        return names[0]

    def stored(self, name: str, dtype: Dtype, shape: tuple[int, ...], pieces: Sequence[Piece]) -> str:
        """Add an initializer behind those before it; return its name."""
        large = _bytes(shape, dtype) >= _PAGE_FROM_BYTES
        alignment = 4096 if large else 64
        offset = -(-self.data_bytes // alignment) * alignment
        entry = Initializer(name=name, dtype=dtype, shape=shape, offset=offset, pieces=tuple(pieces))
        self._add(entry)
        self.data_bytes = offset + entry.length
        return name

    def view(self, name: str, of: str, shape: tuple[int, ...]) -> str:
        """Add an initializer that shares another's bytes under another shape; return its name."""
        self._add(msgspec.structs.replace(self._by_name[of], name=name, shape=shape, pieces=()))
        return name

    def __contains__(self, name: str) -> bool:
        """Whether an initializer has this name."""
        return name in self._by_name

    def integers(self, *values: int) -> str:
        """A small int64 vector kept inside the graph, one for equal values."""
        name = "int64_" + "_".join(str(value).replace("-", "m") for value in values)
        self.constants[name] = values
        return name

    def integer(self, value: int) -> str:
        """An int64 scalar kept inside the graph, one for equal values."""
        name = f"int64_scalar_{value}"
        self.constants[name] = np.int64(value)
        return name

    def scalar(self, name: str, value: float) -> str:
        """A float32 scalar kept inside the graph."""
        self.constants[name] = value
        return name

    def byte(self, value: int) -> str:
        """A uint8 scalar kept inside the graph, one for equal values."""
        name = f"uint8_{value}"
        self.constants[name] = bytes([value])
        return name

    def signed_byte(self, value: int) -> str:
        """An int8 scalar kept inside the graph, one for equal values."""
        name = f"int8_{value}"
        self.constants[name] = np.int8(value)
        return name

    def float8_zero(self) -> str:
        """E4M3's zero kept inside the graph."""
        self.constants["float8_0"] = Float8(0)
        return "float8_0"

    def once(self, key: str, make: Callable[[], str]) -> str:
        """What ``make`` returned when this key was first asked for."""
        if key not in self._once:
            self._once[key] = make()
        return self._once[key]

    def _add(self, entry: Initializer) -> None:
        assert entry.name not in self._by_name, f"{entry.name}: added twice"
        self._by_name[entry.name] = entry
        self.initializers.append(entry)

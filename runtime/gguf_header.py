"""The header of a GGUF file, read with every count checked against the file's size before it is believed.

    magic "GGUF", version u32, tensor count u64, metadata count u64
    metadata:  key, type u32, value                    strings are a length u64 and their bytes
    tensors:   name, dimensions u32, each u64 (innermost first), type u32, offset u64
    padding to ``general.alignment``, then the tensors' data; offsets count from here

Engines in C++ abort the process on some damaged files. A file that passes here has a header that hangs together and
tensors that lie inside the file.

Source: the GGUF specification (docs/gguf.md of ggml), versions 2 and 3.
"""

from __future__ import annotations

import struct
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from edgepress.artifact.formats import FORMATS
from edgepress.errors import InputError

MAX_DIMENSIONS = 4
_VERSIONS = (2, 3)
_STRING, _ARRAY, _U32 = 8, 9, 4

# GGUF value type → numpy dtype, for scalars.
_SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}

# ggml's type numbers of the formats that edgepress writes.
_TYPE_NAMES = {
    0: "f32",
    1: "f16",
    2: "q4_0",
    3: "q4_1",
    6: "q5_0",
    7: "q5_1",
    8: "q8_0",
    12: "q4_K",
    13: "q5_K",
    14: "q6_K",
    20: "iq4_nl",
}


class GgufTensor(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor. ``shape`` is outermost first, as numpy has it; ``offset_bytes`` counts from the start of the file.

    ``format`` and ``data_bytes`` are None for a type that edgepress does not write.
    """

    name: str
    shape: tuple[int, ...]
    format: str | None
    offset_bytes: int
    data_bytes: int | None


class GgufHeader(msgspec.Struct, frozen=True, kw_only=True):
    """Everything before the tensors' data. Arrays of numbers in ``metadata`` are numpy arrays, of strings lists."""

    version: int
    metadata: dict[str, Any]
    tensors: tuple[GgufTensor, ...]

    def integer(self, key: str, default: int = 0) -> int:
        """A whole number of the metadata; ``default`` when it is absent or something else."""
        value = self.metadata.get(key, default)
        return value if isinstance(value, int) and not isinstance(value, bool) else default


def read_header(path: Path) -> GgufHeader:
    """Read and check a file's header.

    Raises:
        InputError: no such file, not GGUF, truncated, or counts that no file of this size can hold.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as stream:
        return _Reader(path, stream, path.stat().st_size).header()


class _Reader:
    def __init__(self, path: Path, stream: BinaryIO, file_bytes: int) -> None:
        self._path = path
        self._stream = stream
        self._file_bytes = file_bytes
        self._at = 0

    def header(self) -> GgufHeader:
        magic = self._take(4, "the magic number")
        if magic != b"GGUF":
            raise InputError(f"{self._path}: not a GGUF file (it starts with {magic!r})")
        version = self._number("<I")
        if version not in _VERSIONS:
            raise InputError(f"{self._path}: GGUF version {version} is not supported; supported: 2 and 3")
        tensor_count = self._count(24, "tensors")
        metadata = self._metadata(self._count(13, "metadata entries"))
        entries = [self._tensor_entry() for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self._damaged(f"general.alignment {alignment!r} is not a power of two")
        data_start = -(-self._at // alignment) * alignment
        tensors = tuple(self._tensor(*entry, data_start, alignment) for entry in entries)
        self._refuse_duplicates([tensor.name for tensor in tensors])
        return GgufHeader(version=version, metadata=metadata, tensors=tensors)

    def _metadata(self, count: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for _ in range(count):
            key = self._string()
            if key in metadata:
                raise self._damaged(f"metadata key {key!r} occurs twice")
            metadata[key] = self._value(self._number("<I"), key)
        return metadata

    def _value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array(self._number("<I"), key)
        return self._scalars(kind, 1, key)[0].item()

    def _array(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return [self._string() for _ in range(self._count(8, f"strings in {key}"))]
        width = np.dtype(self._dtype(kind, key)).itemsize
        return self._scalars(kind, self._count(width, f"numbers in {key}"), key)

    def _scalars(self, kind: int, count: int, key: str) -> Any:
        dtype = np.dtype(self._dtype(kind, key))
        return np.frombuffer(self._take(count * dtype.itemsize, key), dtype=dtype)

    def _dtype(self, kind: int, key: str) -> str:
        if kind not in _SCALARS:
            raise self._damaged(f"metadata key {key!r} has unknown type {kind}")
        return _SCALARS[kind]

    def _tensor_entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        dimensions = self._number("<I")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise self._damaged(f"tensor {name!r} has {dimensions} dimensions (1 to {MAX_DIMENSIONS} make sense)")
        shape = tuple(self._number("<Q") for _ in range(dimensions))
        return name, shape[::-1], self._number("<I"), self._number("<Q")

    def _tensor(
        self, name: str, shape: tuple[int, ...], kind: int, offset: int, data_start: int, alignment: int
    ) -> GgufTensor:
        format = _TYPE_NAMES.get(kind)
        data_bytes = None
        if format is not None:
            if not FORMATS[format].fits(shape[-1]):
                raise self._damaged(f"tensor {name!r} has rows of {shape[-1]} values, no whole blocks of {format}")
            data_bytes = FORMATS[format].tensor_bytes(prod(shape))
        end = data_start + offset + (data_bytes or 1)
        if offset % alignment or end > self._file_bytes:
            raise InputError(
                f"{self._path}: truncated or damaged: tensor {name!r} should end at byte {end}, "
                f"the file has {self._file_bytes}; get the file again"
            )
        return GgufTensor(
            name=name, shape=shape, format=format, offset_bytes=data_start + offset, data_bytes=data_bytes
        )

    def _refuse_duplicates(self, names: list[str]) -> None:
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise self._damaged(f"tensor {twice!r} occurs twice")

    def _string(self) -> str:
        return self._take(self._number("<Q"), "a string").decode("utf-8", errors="surrogateescape")

    def _count(self, least_bytes: int, what: str) -> int:
        count = self._number("<Q")
        if count * least_bytes > self._file_bytes - self._at:
            raise self._damaged(f"{count} {what} cannot fit into {self._file_bytes} bytes")
        return count

    def _number(self, layout: str) -> int:
        return int(struct.unpack(layout, self._take(struct.calcsize(layout), "a number"))[0])

    def _take(self, count: int, what: str) -> bytes:
        if count > self._file_bytes - self._at:
            raise self._damaged(f"{what} of {count} bytes at byte {self._at} runs past the end of the file")
        self._at += count
        return self._stream.read(count)

    def _damaged(self, how: str) -> InputError:
        return InputError(f"{self._path}: truncated or damaged: {how}; get the file again")

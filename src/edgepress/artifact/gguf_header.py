"""The header of a GGUF file: metadata and the table of tensors, read with every count checked before it is believed.

    "GGUF" · u32 version · u64 tensors · u64 pairs
    pairs    × (string key · u32 type · value)
    tensors  × (string name · u32 dimensions · u64 sizes, fastest first · u32 type · u64 offset into the data)
    padding to ``general.alignment`` · data

A string is a u64 length and its bytes; an array is u32 type · u64 length · values. Layout and limits are those of
ggml's ``gguf.cpp``, which refuses arrays of arrays as well. A file may come from anywhere: no length is used before it
was compared with the bytes that are left, so that an absurd one costs neither memory nor time.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.ggml_types import GGML_TYPES
from edgepress.errors import InputError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT_KEY = "general.alignment"

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS: dict[int, np.dtype[Any]] = {
    0: np.dtype("u1"),
    1: np.dtype("i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    _BOOL: np.dtype("u1"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}

_MAX_DIMENSIONS = 4
_MAX_NAME_BYTES = 1024  # names appear in messages; real ones stay below 64
_PAIR_BYTES = 8 + 4 + 1  # the shortest pair and the shortest tensor entry: what a count must leave room for
_ENTRY_BYTES = 8 + 4 + 8 + 4 + 8


class GgufTensorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor. ``shape`` is numpy's order (rows first, the reverse of the file's); ``type`` is ggml's name, such as
    ``Q4_1``; ``offset`` counts bytes from the start of the file, and ``data_bytes`` is what lies there.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    data_bytes: int


class GgufHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a GGUF file says about itself.

    ``metadata`` holds Python scalars and strings, lists of strings, and numpy arrays for arrays of numbers.
    """

    version: int
    metadata: dict[str, Any]
    tensors: tuple[GgufTensorInfo, ...]


def read_gguf_header(path: Path) -> GgufHeader:
    """Read the header; reads none of the tensors' data.

    Raises:
        InputError: not a GGUF file, truncated, big-endian, or with counts, lengths, types or offsets that cannot be.
    """
    try:
        with path.open("rb") as stream:
            return _read(_Cursor(path, stream))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


class _Cursor:
    """A file with a position, from which nothing is taken that is not there."""

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self.path = path
        self.size = stream.seek(0, 2)
        self.position = stream.seek(0)
        self._stream = stream

    @property
    def left(self) -> int:
        return self.size - self.position

    def fail(self, what: str) -> InputError:
        return InputError(f"{self.path}: damaged GGUF header at byte {self.position}: {what}")

    def take(self, count: int, what: str) -> bytes:
        if count > self.left:
            raise self.fail(f"{what} of {count} bytes, but the file ends after {self.left} more; it may be truncated")
        self.position += count
        return self._stream.read(count)

    def u32(self, what: str) -> int:
        return int(struct.unpack("<I", self.take(4, what))[0])

    def u64(self, what: str) -> int:
        return int(struct.unpack("<Q", self.take(8, what))[0])

    def string(self, what: str, limit: int = 2**30) -> str:
        length = self.u64(f"length of {what}")
        if length > limit:
            raise self.fail(f"{what} of {length} bytes; at most {limit} make sense")
        data = self.take(length, what)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"{what} is not UTF-8") from None

    def check_count(self, count: int, each: int, what: str) -> None:
        if count * each > self.left:
            raise self.fail(f"it claims {count} {what}, more than the {self.left} bytes that are left can hold")


def _read(cursor: _Cursor) -> GgufHeader:
    magic = cursor.take(min(4, cursor.left), "magic")
    if magic != MAGIC:
        raise InputError(f"{cursor.path}: not a GGUF file: it starts with {magic!r} instead of {MAGIC!r}")
    version = _version(cursor)
    tensor_count, pair_count = cursor.u64("tensor count"), cursor.u64("metadata count")
    cursor.check_count(tensor_count, _ENTRY_BYTES, "tensors")
    cursor.check_count(pair_count, _PAIR_BYTES, "metadata pairs")
    metadata: dict[str, Any] = {}
    for _ in range(pair_count):
        key = cursor.string("a metadata key", _MAX_NAME_BYTES)
        if not key or key in metadata:
            raise cursor.fail(f"duplicate metadata key {key!r}" if key else "an empty metadata key")
        metadata[key] = _value(cursor, key)
    alignment = _alignment(cursor, metadata)
    entries = [_entry(cursor) for _ in range(tensor_count)]
    start = -(-cursor.position // alignment) * alignment
    tensors = tuple(_place(cursor, entry, start, alignment) for entry in entries)
    _check_apart(cursor, tensors)
    return GgufHeader(version=version, metadata=metadata, tensors=tensors)


def _version(cursor: _Cursor) -> int:
    version = cursor.u32("version")
    if version & 0xFFFF == 0 and version:
        raise InputError(f"{cursor.path}: a big-endian GGUF file; convert it to little-endian (gguf_convert_endian.py)")
    if version not in VERSIONS:
        raise InputError(f"{cursor.path}: GGUF version {version} is not supported; supported: 2, 3")
    return version


def _value(cursor: _Cursor, key: str) -> Any:
    kind = cursor.u32(f"type of {key!r}")
    if kind == _STRING:
        return cursor.string(f"{key!r}")
    if kind == _ARRAY:
        kind, count = cursor.u32(f"type of {key!r}"), cursor.u64(f"length of {key!r}")
        if kind == _STRING:
            cursor.check_count(count, 8, f"strings in {key!r}")
            return [cursor.string(f"an entry of {key!r}") for _ in range(count)]
        return _numbers(cursor, key, kind, count)
    return _numbers(cursor, key, kind, 1)[0].item()


def _numbers(cursor: _Cursor, key: str, kind: int, count: int) -> NDArray[Any]:
    if kind not in _SCALARS:
        raise cursor.fail(f"{key!r} has an unknown value type {kind}")
    dtype = _SCALARS[kind]
    cursor.check_count(count, dtype.itemsize, f"values in {key!r}")
    data = cursor.take(count * dtype.itemsize, f"{key!r}")
    values = np.frombuffer(data, dtype)
    return values != 0 if kind == _BOOL else values


def _alignment(cursor: _Cursor, metadata: dict[str, Any]) -> int:
    alignment = metadata.get(ALIGNMENT_KEY, 32)
    if isinstance(alignment, bool) or not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise cursor.fail(f"{ALIGNMENT_KEY} must be a power of two, got {alignment!r}")
    return alignment


def _entry(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape in numpy's order, type number, offset into the data."""
    name = cursor.string("a tensor name", _MAX_NAME_BYTES)
    dimensions = cursor.u32(f"dimensions of {name!r}")
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise cursor.fail(f"tensor {name!r} has {dimensions} dimensions; wanted 1 to {_MAX_DIMENSIONS}")
    sizes = struct.unpack(f"<{dimensions}Q", cursor.take(8 * dimensions, f"shape of {name!r}"))
    kind, offset = cursor.u32(f"type of {name!r}"), cursor.u64(f"offset of {name!r}")
    return name, tuple(reversed(sizes)), kind, offset


def _place(cursor: _Cursor, entry: tuple[str, tuple[int, ...], int, int], start: int, alignment: int) -> GgufTensorInfo:
    name, shape, kind, offset = entry
    if kind not in GGML_TYPES:
        raise InputError(f"{cursor.path}: tensor {name!r} has an unknown type {kind}; the file is newer, or damaged")
    layout = GGML_TYPES[kind]
    if min(shape) < 1 or shape[-1] % layout.block:
        raise cursor.fail(f"tensor {name!r} of shape {list(shape)} does not divide into {layout.name} blocks")
    data_bytes = prod(shape) // layout.block * layout.block_bytes
    end = start + offset + data_bytes
    if offset % alignment:
        raise cursor.fail(f"tensor {name!r} lies at offset {offset}, not a multiple of the alignment {alignment}")
    if end > cursor.size:
        raise InputError(
            f"{cursor.path}: truncated GGUF: tensor {name!r} {list(shape)} needs bytes {start + offset} to {end}, "
            f"but the file has {cursor.size}; download or convert it again"
        )
    return GgufTensorInfo(name=name, shape=shape, type=layout.name, offset=start + offset, data_bytes=data_bytes)


def _check_apart(cursor: _Cursor, tensors: tuple[GgufTensorInfo, ...]) -> None:
    names: set[str] = set()
    for tensor in tensors:
        if tensor.name in names:
            raise cursor.fail(f"duplicate tensor {tensor.name!r}")
        names.add(tensor.name)
    placed = sorted(tensors, key=lambda tensor: tensor.offset)
    for before, after in pairwise(placed):
        if before.offset + before.data_bytes > after.offset:
            raise cursor.fail(f"tensors {before.name!r} and {after.name!r} overlap")

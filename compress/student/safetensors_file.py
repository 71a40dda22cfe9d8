"""One safetensors file: where each tensor lies, and its values as float32.

    u64 length of the header · header, JSON: name → {dtype, shape, data_offsets [begin, end)} · data

The safetensors library checks the file (lengths, offsets, gaps); the values are then read here, since its numpy
interface knows no bfloat16 and its torch interface would need torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from edgepress.compress.student.json_file import parse_json
from edgepress.compress.student.student import StoredTensor, read_bytes
from edgepress.errors import InputError

_READABLE: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


class Location(msgspec.Struct, frozen=True):
    """Where a tensor lies: ``offset`` in bytes from the start of ``path``."""

    path: Path
    offset: int
    stored: StoredTensor


def locate_tensors(path: Path) -> dict[str, Location]:
    """Name → location of every tensor in a file, in file order.

    Raises:
        InputError: the file cannot be read, is truncated or damaged.
    """
    try:
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as stream:
            header_bytes = int.from_bytes(stream.read(8), "little")
            header = parse_json(stream.read(header_bytes), f"{path}: header")
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size if path.is_file() else 0
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: damaged or truncated safetensors file of {size} bytes ({reason}); download or save it again"
        ) from error
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    in_file_order = sorted(entries.items(), key=lambda item: item[1]["data_offsets"])
    return {name: _location(path, 8 + header_bytes, entry) for name, entry in in_file_order}


def _location(path: Path, data_start: int, entry: dict[str, Any]) -> Location:
    stored = StoredTensor(shape=tuple(entry["shape"]), type=entry["dtype"])
    return Location(path=path, offset=data_start + entry["data_offsets"][0], stored=stored)


def check_readable(name: str, location: Location) -> None:
    """Refuse a tensor whose type is not one of the floating-point types that models are published in.

    Raises:
        InputError: names the tensor and its type.
    """
    kind = location.stored.type
    if kind not in _READABLE:
        raise InputError(f"{location.path}: {name[:100]!r} is stored as {kind}; supported: {', '.join(_READABLE)}")


def read_tensor(location: Location) -> NDArray[np.float32]:
    """The values of a tensor.

    Raises:
        InputError: the file has changed since it was opened.
    """
    dtype = _READABLE[location.stored.type]
    values = int(np.prod(location.stored.shape, dtype=np.int64))
    data: NDArray[Any] = read_bytes(location.path, location.offset, values * dtype.itemsize).view(dtype)
    if location.stored.type == "BF16":
        # bfloat16 is the upper half of a float32.
        data = (data.astype(np.uint32) << 16).view(np.float32)
    floats: NDArray[np.float32] = data.astype(np.float32, copy=False)
    return floats.reshape(location.stored.shape)

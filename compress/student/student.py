"""Student: a model that came in, with where it came from and how it was stored.

Weights are read from the file one tensor at a time and nothing is kept: no mapping stays open, since the pages of a
mapped file count as resident memory, and peak memory must not grow with the model's depth.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from functools import lru_cache
from math import isfinite, prod
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.files import sha256_file
from edgepress.artifact.spec import ModelSpec
from edgepress.errors import InputError


class StoredTensor(msgspec.Struct, frozen=True):
    """Shape of a tensor, and the type it is stored in, by the file format's own name (``BF16``, ``Q4_1``)."""

    shape: tuple[int, ...]
    type: str


class Student(ABC):
    """A model to be compressed; a :class:`~edgepress.artifact.weights.WeightSource`.

    ``name`` is short (a directory's name, a file's stem, a built-in name); ``source`` says where the student came from.
    ``notes`` are lines for the user and the report. ``tensors`` maps Hugging Face names to what is stored, in file
    order; a tied head is not among them.
    """

    name: str
    source: str
    notes: tuple[str, ...]
    spec: ModelSpec
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]

    @property
    @abstractmethod
    def tokenizer_dir(self) -> Path:
        """A directory with the Hugging Face tokenizer's files."""

    @abstractmethod
    def _load(self, name: str) -> NDArray[np.float32]:
        """The values of a tensor, unchecked."""

    @abstractmethod
    def _files(self) -> tuple[Path, ...]:
        """The files that define the model."""

    @property
    def names(self) -> tuple[str, ...]:
        """Hugging Face names of all tensors; a tied head is not listed."""
        return tuple(self.tensors)

    @property
    def stored_types(self) -> dict[str, str]:
        """Tensor name → type it is stored in."""
        return {name: tensor.type for name, tensor in self.tensors.items()}

    @property
    def parameters(self) -> int:
        """Number of parameters, a tied head counted once."""
        return sum(prod(tensor.shape) for tensor in self.tensors.values())

    @property
    def weight_bytes(self) -> int:
        """Bytes of the files that hold the weights."""
        return sum(path.stat().st_size for path in self._files() if path.suffix in (".safetensors", ".gguf"))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return self.tensors[name].shape

    def read(self, name: str) -> NDArray[np.float32]:
        """A tensor's values, float32, read afresh from the file; the caller may write into them.

        Raises:
            InputError: the file is damaged or has changed, or the tensor holds NaN or infinity.
        """
        with np.errstate(all="ignore"):  # broken values are reported by name below, not as warnings
            values = self._load(name)
            # The extremes carry any NaN or infinity along, without a mask as large as the tensor.
            finite = isfinite(values.min()) and isfinite(values.max())
        if not finite:
            wrong = int(values.size - np.isfinite(values).sum())
            raise InputError(
                f"{self.source}: {name} has {wrong} values of {values.size} that are NaN or infinite; "
                "the student is broken and cannot be compressed"
            )
        return values

    def digest(self) -> str:
        """sha256 over the files that define the model: weights, configuration, tokenizer."""
        total = hashlib.sha256()
        for path in self._files():
            total.update(f"{path.name} {_digest(path)}\n".encode())
        return total.hexdigest()


def _digest(path: Path) -> str:
    try:
        status = path.stat()
        return _digest_at(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


@lru_cache(maxsize=4096)
def _digest_at(path: Path, size_bytes: int, modified_ns: int) -> str:
    """The digest of a file in the state that size and time of change stand for."""
    return sha256_file(path)


def read_bytes(path: Path, offset: int, count: int) -> NDArray[np.uint8]:
    """Read a stretch of a file into memory of its own.

    Raises:
        InputError: the file cannot be read or is shorter than it was when it was opened.
    """
    try:
        data = np.fromfile(path, np.uint8, count, offset=offset)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if data.size != count:
        raise InputError(f"{path}: {count} bytes wanted at byte {offset}, but the file ends after {data.size} of them")
    return data

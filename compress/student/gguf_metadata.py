"""Typed access to the metadata of a GGUF file: a value of the expected kind and size, or one line that says why not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.artifact.gguf_header import GgufHeader
from edgepress.errors import InputError

_LARGEST = 2**31 - 1


class GgufMetadata:
    """The keys of one file. Keys that start with a dot belong to the architecture: ``.block_count``."""

    def __init__(self, path: Path, header: GgufHeader) -> None:
        self.path = path
        self._values = header.metadata
        self.architecture = self.text("general.architecture")

    def has(self, key: str) -> bool:
        """Whether the key is there."""
        return self._full(key) in self._values

    def raw(self, key: str, default: Any = None) -> Any:
        """The value as it was read."""
        return self._values.get(self._full(key), default)

    def fail(self, key: str, what: str) -> InputError:
        """An error about a key."""
        return InputError(f"{self.path}: metadata {self._full(key)} {what}")

    def text(self, key: str, default: str | None = None) -> str:
        """A string.

        Raises:
            InputError: missing without a default, or not a string.
        """
        value = self._values.get(self._full(key), default)
        if not isinstance(value, str):
            raise self.fail(key, "is missing" if value is None else f"must be a string, got {type(value).__name__}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """A boolean.

        Raises:
            InputError: not a boolean.
        """
        value = self._values.get(self._full(key), default)
        if not isinstance(value, bool):
            raise self.fail(key, f"must be true or false, got {_short(value)}")
        return value

    def count(self, key: str, default: int | None = None, most: int = _LARGEST) -> int:
        """A positive integer; an array of equal ones counts as one of them.

        Raises:
            InputError: missing without a default, not an integer, out of range, or different per layer.
        """
        value = self._values.get(self._full(key), default)
        if isinstance(value, np.ndarray) and value.size and value.dtype.kind in "iu":
            if (value != value[0]).any():
                raise self.fail(key, f"differs from layer to layer ({value.min()} to {value.max()}): not supported")
            value = int(value[0])
        if value is None:
            raise self.fail(key, "is missing")
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
            raise self.fail(key, f"must be an integer from 1 to {most}, got {_short(value)}")
        return value

    def number(self, key: str, default: float) -> float:
        """A finite number. Files hold float32: the shortest decimal that rounds to it is what the author wrote.

        Raises:
            InputError: not a finite number.
        """
        value = self._values.get(self._full(key), default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.fail(key, f"must be a finite number, got {_short(value)}")
        return float(str(np.float32(value)))

    def token_id(self, key: str, vocab: int) -> int | None:
        """The id of a special token; None when the file names none, or one beyond the vocabulary, as in llama.cpp."""
        value = self._values.get(self._full(key))
        valid = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < vocab
        return value if valid else None

    def _full(self, key: str) -> str:
        return self.architecture + key if key.startswith(".") else key


def _short(value: Any) -> str:
    return repr(value)[:60] if not isinstance(value, np.ndarray) else f"an array of {value.size}"

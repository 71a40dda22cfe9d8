"""What llama.cpp would abort the process on, refused before a file is handed to it.

llama.cpp turns most damage into an error, but some numbers reach an assertion: too many layers, tokens that occur
twice, heads that do not match their matrices, a rotation wider than a head.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from edgepress.artifact.families import FAMILIES
from edgepress.artifact.gguf_header import GgufHeader, read_gguf_header
from edgepress.errors import InputError

MAX_LAYERS = 512  # llama.cpp's LLAMA_MAX_LAYERS
MAX_WINDOW = 2**24  # tokens; llama.cpp reserves memory for a whole window

# Architectures of which it is known that every value of a head is rotated.
_FULLY_ROTATED = {family.gguf for family in FAMILIES.values()}


def read_checked_header(path: Path) -> GgufHeader:
    """Read the header and refuse what would abort the process inside llama.cpp.

    Raises:
        InputError: a damaged file, or numbers that no model has.
    """
    header = read_gguf_header(path)
    architecture = header.metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise InputError(f"{path}: no general.architecture in the metadata; this is not a language model's file")
    fields = _Fields(path, header, architecture)
    fields.check("block_count", lambda n: 0 < n <= MAX_LAYERS, required=True)
    for key in ("context_length", "embedding_length", "attention.head_count"):
        fields.check(key, lambda n: 0 < n < 2**31)
    fields.check("attention.sliding_window", lambda n: 0 <= n <= MAX_WINDOW)
    fields.check("attention.layer_norm_rms_epsilon", lambda x: math.isfinite(x) and 0 <= x < 1)
    if architecture in _FULLY_ROTATED:
        _check_heads(path, header, architecture)
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and len(set(tokens)) != len(tokens):
        raise InputError(f"{path}: {len(tokens) - len(set(tokens))} tokens of the vocabulary occur twice")
    return header


def whole(header: GgufHeader, key: str, default: int = 0) -> int:
    """A whole number of the metadata; ``default`` when it is absent or something else."""
    value = header.metadata.get(key, default)
    return value if isinstance(value, int) and not isinstance(value, bool) else default


class _Fields:
    """The architecture's own numbers."""

    def __init__(self, path: Path, header: GgufHeader, architecture: str) -> None:
        self._path, self._metadata, self._prefix = path, header.metadata, architecture

    def check(self, key: str, sensible: Any, *, required: bool = False) -> None:
        """Refuse a number that is not sensible; per-layer arrays are llama.cpp's to judge."""
        value = self._metadata.get(f"{self._prefix}.{key}")
        if value is None and not required:
            return
        if isinstance(value, int | float) and not sensible(value):
            raise InputError(f"{self._path}: {self._prefix}.{key} = {value!r} is absurd; the file is damaged")
        if required and not isinstance(value, int | float):
            raise InputError(f"{self._path}: {self._prefix}.{key} is missing; this is not a language model's file")


def _check_heads(path: Path, header: GgufHeader, architecture: str) -> None:
    """Heads, their size and the rotation must fit the first query matrix."""
    heads = whole(header, f"{architecture}.attention.head_count")
    query = next((tensor for tensor in header.tensors if tensor.name == "blk.0.attn_q.weight"), None)
    if not heads or query is None:
        return
    default = whole(header, f"{architecture}.embedding_length") // heads
    size = whole(header, f"{architecture}.attention.key_length", default)
    value_size = whole(header, f"{architecture}.attention.value_length", default)
    rotated = whole(header, f"{architecture}.rope.dimension_count", size)
    if query.shape[0] != heads * size or value_size != size or rotated != size:
        raise InputError(
            f"{path}: {heads} heads of {size} values, {rotated} of them rotated, do not fit a query matrix of "
            f"{query.shape[0]} rows; the file is damaged"
        )

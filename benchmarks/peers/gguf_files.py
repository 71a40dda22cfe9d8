"""What two GGUF files have in common: the type of every tensor, and which of them hold the same bytes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.artifact.families import EMBEDDING, FAMILIES, HEAD, gguf_names, is_matrix
from edgepress.artifact.formats import FORMATS
from edgepress.artifact.spec import ModelSpec
from edgepress.errors import InputError, require

BY_GGML_NAME = {name.upper(): name for name in FORMATS}


def tensor_types(path: Path) -> dict[str, str]:
    """GGUF tensor name → ggml's name of its type."""
    return {tensor.name: str(tensor.tensor_type.name) for tensor in _reader(path).tensors}


def identical_tensors(one: Path, other: Path) -> tuple[int, int]:
    """Number of quantized tensors whose bytes are equal in both files, and of quantized tensors in the first."""
    theirs = {tensor.name: tensor for tensor in _reader(other).tensors}
    equal = total = 0
    for tensor in _reader(one).tensors:
        if tensor.tensor_type.name in ("F32", "F16"):
            continue
        total += 1
        match = theirs.get(tensor.name)
        if match is not None and match.tensor_type == tensor.tensor_type:
            equal += bool(np.array_equal(match.data, tensor.data))
    return equal, total


def type_differences(one: dict[str, str], other: dict[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Tensors whose type is not the same in both files, or that are missing from one."""
    names = sorted(one.keys() | other.keys())
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}


def quantize_step(types: dict[str, str], spec: ModelSpec, solver: str) -> dict[str, Any]:
    """A recipe's quantize step that gives every matrix the type it has in a GGUF file.

    Raises:
        InputError: a type that edgepress does not write.
    """
    ours = {hf: types[gguf] for hf, gguf in gguf_names(FAMILIES[spec.family], spec.depth).items() if gguf in types}
    unknown = sorted(set(ours.values()) - BY_GGML_NAME.keys())
    if unknown:
        raise InputError(f"llama-quantize used {unknown[0]}, which edgepress does not write; leave this format out")
    formats = {name.removesuffix(".weight"): BY_GGML_NAME[kind] for name, kind in ours.items() if is_matrix(name)}
    outside = {name.removesuffix(".weight") for name in (EMBEDDING, HEAD)}
    body = Counter(kind for name, kind in formats.items() if name not in outside).most_common(1)[0][0]
    embedding = formats[EMBEDDING.removesuffix(".weight")]
    special = {name: kind for name, kind in formats.items() if kind != (embedding if name in outside else body)}
    return {
        "step": "quantize",
        "solver": solver,
        "format": body,
        "embedding": embedding,
        "formats": special,
    }


def _reader(path: Path) -> Any:
    return require("gguf", "gguf").GGUFReader(str(path))

"""A GGUF file as a student: Hugging Face names and row order, float32 values dequantized tensor by tensor.

Undone from llama.cpp's converter: the row order of q and k in the families that rotate neighbouring values (a head's
rows lie as pairs, Hugging Face has two halves), the 1 added to Gemma's norms, Llama 3's rope divisors, and the names.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.families import EMBEDDING, HEAD, LINEARS, Family, gguf_names, is_matrix, layer_name
from edgepress.artifact.ggml_types import GGML_TYPES
from edgepress.artifact.gguf_header import GgufTensorInfo, read_gguf_header
from edgepress.artifact.spec import ModelSpec
from edgepress.compress.student.expected import in_expected_order, read_spec
from edgepress.compress.student.gguf_config import depth_of, family_of, hf_config
from edgepress.compress.student.gguf_metadata import GgufMetadata
from edgepress.compress.student.gguf_tokenizer import tokenizer_dir
from edgepress.compress.student.student import StoredTensor, Student, read_bytes
from edgepress.errors import InputError, require

ROPE_DIVISORS = "rope_freqs.weight"

_FLOATS = ("F32", "F16", "BF16")
_UNREADABLE = ("Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64", "Q1_0")
_ROW_BYTES = {layout.name: layout for layout in GGML_TYPES.values()}
_PIECE_VALUES = 1 << 20


class GgufFile(Student):
    """A student in a GGUF file. Checked when it is opened; weights are read and dequantized later, one at a time.

    Raises:
        InputError: anything missing, damaged or not supported, named in one line.
    """

    def __init__(self, path: Path, *, name: str | None = None, source: str | None = None) -> None:
        self.path = path
        self.name = name or path.stem
        self.source = source or str(path)
        header = read_gguf_header(path)
        metadata = GgufMetadata(path, header)
        self._family = family_of(metadata)
        self._infos = _by_hf_name(metadata, self._family, header.tensors)
        divisors = self._divisors({info.name: info for info in header.tensors})
        tied = self._drop_copied_head()
        embedding = self._infos[EMBEDDING].shape
        self.config = hf_config(
            metadata,
            self._family,
            vocab=embedding[0],
            tied=tied,
            biases=_biases(self._family, self._infos),
            rope_divisors=divisors,
        )
        self.spec = read_spec(self.config, tied=tied, where=str(path))
        stored = {hf: StoredTensor(shape=info.shape, type=info.type) for hf, info in self._infos.items()}
        self.tensors = in_expected_order(stored, self.spec, self.config, str(path))
        self._interleaved = _interleaved_heads(self._family, self.spec)
        self._tokenizer_dir = tokenizer_dir(metadata, self.spec.vocab)
        self.notes = _notes(self.tensors, metadata)

    @property
    def tokenizer_dir(self) -> Path:
        """A directory in the cache with the tokenizer from the file, converted."""
        return self._tokenizer_dir

    def _load(self, name: str) -> NDArray[np.float32]:
        values = _dequantize(self.path, self._infos[name])
        if name in self._interleaved:
            values = halves_from_pairs(values, self._interleaved[name])
        if name.endswith("norm.weight") and self._family.norm_offset:
            values -= np.float32(self._family.norm_offset)
        return values

    def _files(self) -> tuple[Path, ...]:
        return (self.path,)

    def _divisors(self, infos: dict[str, GgufTensorInfo]) -> NDArray[np.float32] | None:
        info = infos.get(ROPE_DIVISORS)
        with np.errstate(all="ignore"):
            return None if info is None else _dequantize(self.path, info).reshape(-1)

    def _drop_copied_head(self) -> bool:
        """Whether the embedding serves as head: there is no other, or the other is a copy, which is dropped."""
        head, embedding = self._infos.get(HEAD), self._infos[EMBEDDING]
        if head is None:
            return True
        if (head.shape, head.type) != (embedding.shape, embedding.type):
            return False
        for start in range(0, head.data_bytes, 4 * _PIECE_VALUES):
            count = min(4 * _PIECE_VALUES, head.data_bytes - start)
            a = read_bytes(self.path, head.offset + start, count)
            if not np.array_equal(a, read_bytes(self.path, embedding.offset + start, count)):
                return False
        del self._infos[HEAD]
        return True


def halves_from_pairs(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Reorder the rows of a q or k projection, (heads · head_dim, …): each head's rows 0 1 2 3 … → 0 2 … 1 3 …"""
    pairs = values.reshape(heads, -1, 2, *values.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


def _by_hf_name(metadata: GgufMetadata, family: Family, infos: tuple[GgufTensorInfo, ...]) -> dict[str, GgufTensorInfo]:
    names = {gguf: hf for hf, gguf in gguf_names(family, depth_of(metadata)).items()}
    found: dict[str, GgufTensorInfo] = {}
    for info in infos:
        if info.type in _UNREADABLE:
            raise InputError(f"{metadata.path}: {info.name[:100]!r} is stored as {info.type}, which is not supported")
        if info.name in names:
            found[names[info.name]] = info
        elif info.name != ROPE_DIVISORS:
            raise InputError(f"{metadata.path}: unexpected tensor {info.name[:100]!r} for a {family.gguf} model")
    if EMBEDDING not in found:
        raise InputError(f"{metadata.path}: token_embd.weight is missing; it has {len(infos)} tensors")
    return found


def _biases(family: Family, infos: dict[str, GgufTensorInfo]) -> set[str]:
    """The configuration's options that the bias tensors of the first layer turn on."""
    return {option for part, option in family.biases.items() if layer_name(0, part, "bias") in infos}


def _interleaved_heads(family: Family, spec: ModelSpec) -> dict[str, int]:
    """Name → heads of the tensors whose rows lie in pairs."""
    if not family.interleaved_rope:
        return {}
    heads: dict[str, int] = {}
    for index, layer in enumerate(spec.layers):
        for leaf in ("weight", "bias"):
            heads[layer_name(index, LINEARS["attn_q"], leaf)] = layer.heads
            heads[layer_name(index, LINEARS["attn_k"], leaf)] = layer.kv_heads
    return heads


def _notes(tensors: dict[str, StoredTensor], metadata: GgufMetadata) -> tuple[str, ...]:
    notes = []
    counts: dict[str, int] = {}
    for name, tensor in tensors.items():
        if is_matrix(name) and tensor.type not in _FLOATS:
            counts[tensor.type] = counts.get(tensor.type, 0) + 1
    if counts:
        listed = ", ".join(f"{kind}: {count} tensors" for kind, count in sorted(counts.items()))
        notes.append(
            f"the weights were already quantized ({listed}): a result at the same width on them flatters formats that "
            "share their grid"
        )
    if not metadata.has("tokenizer.ggml.pre") and metadata.text("tokenizer.ggml.model", "") == "gpt2":
        notes.append("the file does not say how its tokenizer cuts words: llama.cpp's default is used, as it would")
    return tuple(notes)


def _dequantize(path: Path, info: GgufTensorInfo) -> NDArray[np.float32]:
    """Values of a tensor in the file's own order, decoded a few rows at a time into one array."""
    gguf = require("gguf", "compress")
    columns = info.shape[-1]
    kind = gguf.GGMLQuantizationType[info.type]
    layout = _ROW_BYTES[info.type]
    row_bytes = columns // layout.block * layout.block_bytes
    rows = info.data_bytes // row_bytes
    values = np.empty((rows, columns), np.float32)
    step = max(1, _PIECE_VALUES // columns)
    for first in range(0, rows, step):
        count = min(step, rows - first)
        data = read_bytes(path, info.offset + first * row_bytes, count * row_bytes).reshape(count, row_bytes)
        values[first : first + count] = gguf.quants.dequantize(data, kind)
    return values.reshape(info.shape)

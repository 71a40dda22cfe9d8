"""The GGUF header reader against the gguf package, and against counts that cannot be."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from edgepress.artifact.ggml_types import GGML_TYPES
from edgepress.artifact.gguf_header import read_gguf_header
from edgepress.errors import InputError

HUGE = 2**60


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A file with every kind of metadata value and a few tensors."""
    import gguf

    path = tmp_path / "file.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("a.u32", 7)
    writer.add_int64("a.i64", -(2**40))
    writer.add_float32("a.f32", 0.5)
    writer.add_bool("a.bool", True)
    writer.add_string("a.string", "grüße\n")
    writer.add_array("a.strings", ["x", "", "yz"])
    writer.add_array("a.ints", [1, -2, 3])
    writer.add_array("a.floats", [0.25, 1.5])
    writer.add_array("a.flags", [True, False])
    writer.add_tensor("one", np.arange(6, dtype=np.float32))
    writer.add_tensor("two", np.ones((3, 64), np.float16))
    quantized = gguf.quants.quantize(np.ones((4, 64), np.float32), gguf.GGMLQuantizationType.Q4_1)
    writer.add_tensor("three", quantized, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_metadata_and_tensors_are_those_of_the_gguf_package(written: Path) -> None:
    import gguf

    header, reader = read_gguf_header(written), gguf.GGUFReader(written)
    for key, field in reader.fields.items():
        if not key.startswith("GGUF."):
            value = header.metadata[key]
            assert (value.tolist() if isinstance(value, np.ndarray) else value) == field.contents()
    assert header.version == 3
    assert len(header.tensors) == len(reader.tensors) == 3
    for info, tensor in zip(header.tensors, reader.tensors, strict=True):
        assert info.name == tensor.name
        assert info.shape == tuple(reversed(tensor.shape.tolist()))
        assert info.type == tensor.tensor_type.name
        assert (info.offset, info.data_bytes) == (tensor.data_offset, tensor.n_bytes)


def test_types_have_the_sizes_of_the_gguf_package() -> None:
    import gguf

    known = {kind.value: (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    ours = {number: (kind.name, kind.block, kind.block_bytes) for number, kind in GGML_TYPES.items()}
    assert {number: known[number] for number in ours if number in known} == {
        number: sizes for number, sizes in ours.items() if number in known
    }
    assert len(set(ours) & set(known)) > 25


def _string(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


def _file(tensors: int = 0, pairs: int = 0, body: bytes = b"", version: int = 3, tail: int = 256) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs) + body + bytes(tail)


def _tensor(name: bytes = b"t", sizes: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return _string(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


def _pair(key: bytes, kind: int, value: bytes) -> bytes:
    return _string(key) + struct.pack("<I", kind) + value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a GGUF file: it starts with b''"),
        (b"PK\x03\x04zip", r"it starts with b'PK\\x03\\x04' instead of b'GGUF'"),
        (b"GGUF\x03\x00", "version of 4 bytes, but the file ends after 2 more; it may be truncated"),
        (_file(version=1), "version 1 is not supported; supported: 2, 3"),
        (_file(version=3 << 24), "a big-endian GGUF file; convert it"),
        (_file(tensors=HUGE), f"claims {HUGE} tensors, more than the 256 bytes"),
        (_file(pairs=HUGE), f"claims {HUGE} metadata pairs, more than"),
        (_file(pairs=1, body=_string(b"k", HUGE)), f"a metadata key of {HUGE} bytes; at most 1024 make sense"),
        (_file(pairs=1, body=_pair(b"k", 8, _string(b"", HUGE))), f"'k' of {HUGE} bytes; at most"),
        (_file(pairs=1, body=_pair(b"k", 8, _string(b"", 2**29))), f"'k' of {2**29} bytes, but the file ends"),
        (_file(pairs=1, body=_pair(b"k", 9, struct.pack("<IQ", 8, HUGE))), f"claims {HUGE} strings in 'k'"),
        (_file(pairs=1, body=_pair(b"k", 9, struct.pack("<IQ", 5, HUGE))), f"claims {HUGE} values in 'k'"),
        (_file(pairs=1, body=_pair(b"k", 9, struct.pack("<IQ", 9, 1))), "'k' has an unknown value type 9"),
        (_file(pairs=1, body=_pair(b"k", 77, b"")), "'k' has an unknown value type 77"),
        (_file(pairs=1, body=_pair(b"\xff", 0, b"\1")), "a metadata key is not UTF-8"),
        (_file(pairs=2, body=_pair(b"k", 0, b"\1") * 2), "duplicate metadata key 'k'"),
        (_file(pairs=1, body=_pair(b"general.alignment", 4, b"\3\0\0\0")), "must be a power of two, got 3"),
        (_file(tensors=1, body=_tensor(sizes=(HUGE,))), f"needs bytes 64 to {64 + 4 * HUGE}, but the file has"),
        (_file(tensors=1, body=_tensor(sizes=(HUGE, HUGE, HUGE, HUGE))), "truncated GGUF: tensor 't'"),
        (_file(tensors=1, body=_tensor(sizes=(1, 1, 1, 1, 1))), "has 5 dimensions; wanted 1 to 4"),
        (_file(tensors=1, body=_tensor(sizes=())), "has 0 dimensions"),
        (_file(tensors=1, body=_tensor(sizes=(0, 4))), r"shape \[4, 0\] does not divide into F32 blocks"),
        (_file(tensors=1, body=_tensor(sizes=(33,), kind=2)), r"shape \[33\] does not divide into Q4_0 blocks"),
        (_file(tensors=1, body=_tensor(kind=4)), "'t' has an unknown type 4"),
        (_file(tensors=1, body=_tensor(offset=HUGE)), f"needs bytes {64 + HUGE} to"),
        (_file(tensors=1, body=_tensor(offset=7)), "lies at offset 7, not a multiple of the alignment 32"),
        (_file(tensors=2, body=_tensor() * 2), "duplicate tensor 't'"),
        (_file(tensors=2, body=_tensor() + _tensor(b"u", offset=128), tail=512), None),
        (_file(tensors=2, body=_tensor() + _tensor(b"u", offset=96)), "tensors 't' and 'u' overlap"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(content: bytes, message: str | None, tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    path.write_bytes(content)
    if message is None:
        assert len(read_gguf_header(path).tensors) == 2
        return
    with pytest.raises(InputError, match=message) as caught:
        read_gguf_header(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_truncation_anywhere_is_noticed(written: Path) -> None:
    content = written.read_bytes()
    last = max(info.offset + info.data_bytes for info in read_gguf_header(written).tensors)
    for length in range(0, last, 5):
        written.write_bytes(content[:length])
        with pytest.raises(InputError):
            read_gguf_header(written)


def test_a_missing_file_and_a_directory_are_one_line(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.gguf", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError, match=reason):
            read_gguf_header(path)

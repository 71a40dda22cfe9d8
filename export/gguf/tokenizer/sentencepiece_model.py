"""The pieces of a SentencePiece ``tokenizer.model``, read without the SentencePiece library.

The file is a protocol buffer, of which only the list of pieces matters here:

    ModelProto    { repeated SentencePiece pieces = 1; … }
    SentencePiece { string piece = 1; float score = 2; Type type = 3; }      type defaults to 1, normal

On the wire a field is a varint tag (number · 8 + wire type) and its value: wire type 0 a varint, 1 eight bytes, 2 a
varint length and that many bytes, 5 four bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edgepress.errors import InputError

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the vocabulary; its id is its place in the list."""

    text: str
    score: float
    kind: int


def read_pieces(path: Path) -> list[Piece]:
    """All pieces; empty when there is no such file.

    Raises:
        InputError: the file is damaged.
    """
    if not path.is_file():
        return []
    try:
        return [_piece(value) for number, value in _fields(path.read_bytes()) if number == 1]
    except (IndexError, struct.error, ValueError) as error:
        raise InputError(f"{path}: not a SentencePiece model ({error}); remove it or get it again") from error


def _piece(data: bytes | int) -> Piece:
    if not isinstance(data, bytes):
        raise ValueError("a piece is not a message")
    fields = dict(_fields(data))
    text, score = fields.get(1, b""), fields.get(2, b"\0\0\0\0")
    if not isinstance(text, bytes) or not isinstance(score, bytes):
        raise ValueError("a piece has fields of the wrong type")
    kind = fields.get(3, 1)
    return Piece(
        text=text.decode("utf-8"), score=struct.unpack("<f", score)[0], kind=kind if isinstance(kind, int) else 1
    )


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """(field number, value) of a message; fixed-width values as their bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if wire == _BYTES:
            length, at = _varint(data, at)
        elif wire in (_EIGHT, _FOUR):
            length = 8 if wire == _EIGHT else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + length > len(data):
            raise ValueError("it ends in the middle of a field")
        yield tag >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number does not end")

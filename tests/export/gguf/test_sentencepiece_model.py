"""The pieces of a ``tokenizer.model``, from a protocol buffer written out by hand."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from tiny_tokenizers import sentencepiece_like

from edgepress.errors import InputError
from edgepress.export.gguf.tokenizer.files import read_tokenizer_files
from edgepress.export.gguf.tokenizer.sentencepiece_model import Piece, read_pieces
from edgepress.export.gguf.tokenizer.vocabulary import read_vocabulary


def test_pieces_are_read_and_other_fields_skipped(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    trainer = _message(2, b"\x1a\x03bpe" + b"\x20\x80\x7d")  # some string, some varint
    long_text = "x" * 300  # a length of two bytes
    path.write_bytes(_piece("<unk>", 0.0, 2) + _piece("▁the", -1.5) + trainer + _piece(long_text, -2.0, 6))
    assert read_pieces(path) == [
        Piece(text="<unk>", score=0.0, kind=2),
        Piece(text="▁the", score=-1.5, kind=1),
        Piece(text=long_text, score=-2.0, kind=6),
    ]


def test_no_file_means_no_pieces(tmp_path: Path) -> None:
    assert read_pieces(tmp_path / "tokenizer.model") == []


@pytest.mark.parametrize(
    "data", [b"\x0a", b"\x0a\x7fshort", b"\x0b", b"\xff" * 20, b"\x0a\x04\x0a\x02\xff\xfe", b"\x08\x01"]
)
def test_damage_is_one_line(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    with pytest.raises(InputError, match="not a SentencePiece model") as caught:
        read_pieces(path)
    assert "\n" not in str(caught.value)


def test_scores_of_the_model_are_taken_where_it_lists_the_same_tokens(tmp_path: Path) -> None:
    directory = sentencepiece_like(tmp_path / "t", prefix=False)
    ids = read_tokenizer_files(directory).model["vocab"]
    texts = sorted(ids, key=ids.__getitem__)
    (directory / "tokenizer.model").write_bytes(b"".join(_piece(text, -i / 7) for i, text in enumerate(texts)))
    scores = read_vocabulary(read_tokenizer_files(directory), 501).scores
    assert scores is not None
    assert scores[300] == pytest.approx(-300 / 7)


def test_a_model_of_another_vocabulary_is_not_believed(tmp_path: Path) -> None:
    directory = sentencepiece_like(tmp_path / "t", prefix=False)
    derived = read_vocabulary(read_tokenizer_files(directory), 501)
    (directory / "tokenizer.model").write_bytes(b"".join(_piece(f"t{i}", -i / 7) for i in range(600)))
    assert read_vocabulary(read_tokenizer_files(directory), 501) == derived


def _piece(text: str, score: float, kind: int | None = None) -> bytes:
    body = _message(1, text.encode()) + b"\x15" + struct.pack("<f", score)
    return _message(1, body + (b"" if kind is None else bytes([0x18, kind])))


def _message(number: int, body: bytes) -> bytes:
    length = len(body)
    size = bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])
    return bytes([number << 3 | 2]) + size + body

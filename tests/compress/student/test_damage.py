"""Students damaged at random: one line, or a student that reads whole; never another exception, never a hang."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_models import make_model_dir

from edgepress.compress.student.open import open_student
from edgepress.errors import InputError

ROUNDS = 150
ABSURD = (0, 1, 5, 2**31, 2**32, 2**60, 2**63, 2**64 - 1)


def _damaged(content: bytes, draw: random.Random, header_bytes: int) -> bytes:
    """Cut, flip bits, overwrite with absurd numbers, or insert and remove bytes; mostly in the header."""
    data = bytearray(content)
    if draw.random() < 0.1:
        return bytes(data[: draw.randrange(len(data))])
    for _ in range(draw.choice((1, 1, 2, 4))):
        place = draw.randrange(min(header_bytes, len(data)) if draw.random() < 0.8 else len(data))
        what = draw.random()
        if what < 0.5:
            data[place] ^= 1 << draw.randrange(8)
        elif what < 0.8:
            data[place : place + 8] = draw.choice(ABSURD).to_bytes(8, "little")
        else:
            data[place : place + 1] = draw.randbytes(draw.randrange(3))
    return bytes(data)


def _read_whole(path: Path) -> bool:
    try:
        student = open_student(str(path))
        for name in student.names:
            assert student.read(name).shape == student.shape(name)
        assert student.tokenizer_dir.is_dir()
    except InputError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 1000
        return False
    return True


@pytest.mark.parametrize("family", ["llama3", "gemma3"])
def test_damaged_gguf_files(family: str, tmp_path: Path, write_gguf: Any) -> None:
    directory = make_model_dir(family, tmp_path / "student")
    path = write_gguf(directory, tmp_path / "tiny.gguf", matrix_type="Q8_0")
    content, draw = path.read_bytes(), random.Random(0)
    read = 0
    for _ in range(ROUNDS):
        path.write_bytes(_damaged(content, draw, header_bytes=20_000))
        read += _read_whole(path)
    assert 0 < read < ROUNDS


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_damaged_hugging_face_directories(file: str, llama_dir: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(llama_dir, tmp_path / "student"))
    content, draw = (directory / file).read_bytes(), random.Random(0)
    read = 0
    for _ in range(ROUNDS):
        (directory / file).write_bytes(_damaged(content, draw, header_bytes=3_000))
        read += _read_whole(directory)
    assert 0 < read < ROUNDS

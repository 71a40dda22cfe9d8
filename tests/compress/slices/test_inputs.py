"""Calibration inputs: windows with the tokens that belong around a text, and pictures that fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import CORPUS, make_tokenizer
from tokenizers import Tokenizer, processors

from edgepress.compress.slices.inputs import image_inputs, text_inputs
from edgepress.errors import InputError

TEXT: dict[str, Any] = {
    "model_type": "bert",
    "max_position_embeddings": 40,
    "pad_token_id": 2,
    "vocab_size": 320,
}
PICTURES = {"image_size": 16, "patch_size": 8, "num_channels": 3}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A tokenizer that puts token 0 before a text and token 1 behind it, and a text."""
    make_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A <|im_end|>", special_tokens=[("<|endoftext|>", 0), ("<|im_end|>", 1)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text(CORPUS * 20, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(("kind", "length"), [("bert", 40), ("roberta", 37)])
def test_a_text_is_cut_into_windows_that_hold_all_of_it(place: Path, kind: str, length: int) -> None:
    windows = text_inputs([str(place / "text.txt")], place, TEXT | {"model_type": kind})["input_ids"]
    assert windows.shape[1] == length
    assert set(windows[:, 0].tolist()) == {0}
    assert set(windows[:, -1].tolist()) == {1}
    plain = Tokenizer.from_file(str(place / "tokenizer.json")).encode(CORPUS * 20, add_special_tokens=False).ids
    inside = windows[:, 1:-1].flatten().tolist()
    assert inside == plain[: len(inside)]
    assert len(plain) - len(inside) < length


def test_there_are_no_more_tokens_than_memory_is_meant_for(place: Path) -> None:
    (place / "long.txt").write_text(CORPUS * 400, encoding="utf-8")
    windows = text_inputs([str(place / "long.txt")], place, TEXT)["input_ids"]
    assert windows.numel() == 8192 // 40 * 40


def test_pictures_are_taken_from_all_over_the_file(tmp_path: Path) -> None:
    pictures = np.arange(4000, dtype=np.float64).reshape(-1, 1, 1, 1) * np.ones((1, 3, 16, 16))
    np.save(tmp_path / "p.npy", pictures)
    values = image_inputs(tmp_path / "p.npy", PICTURES)["pixel_values"]
    assert values.shape == (1638, 3, 16, 16)  # five tokens each: four patches and the class token
    assert values[0, 0, 0, 0].item() == 0
    assert values[-1, 0, 0, 0].item() == 3999
    assert np.load(tmp_path / "p.npy").dtype == np.float64
    assert str(values.dtype) == "torch.float32"


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (
            np.zeros((2, 3, 16, 16), np.uint8),
            "wanted floats (n, 3, 16, 16), prepared pictures; got uint8 (2, 3, 16, 16)",
        ),
        (np.zeros((2, 16, 16, 3), np.float32), "got float32 (2, 16, 16, 3)"),
        (np.zeros((0, 3, 16, 16), np.float32), "got float32 (0, 3, 16, 16)"),
        (np.zeros((3, 16, 16), np.float32), "got float32 (3, 16, 16)"),
        (np.full((2, 3, 16, 16), np.nan, np.float32), "NaN or infinite"),
        (np.array([{"a": 1}]), "cannot be read as an .npy of numbers"),
    ],
)
def test_other_pictures_are_refused(tmp_path: Path, pictures: Any, message: str) -> None:
    np.save(tmp_path / "p.npy", pictures, allow_pickle=True)
    with pytest.raises(InputError, match=re.escape(message)):
        image_inputs(tmp_path / "p.npy", PICTURES)


def test_a_text_that_fills_no_window_is_refused(place: Path) -> None:
    (place / "short.txt").write_text("fox", encoding="utf-8")
    with pytest.raises(InputError, match="a window needs 40"):
        text_inputs([str(place / "short.txt")], place, TEXT)


def test_a_tokenizer_of_another_model_is_refused(place: Path) -> None:
    with pytest.raises(InputError, match=r"makes token \d+, and the model has 100"):
        text_inputs([str(place / "text.txt")], place, TEXT | {"vocab_size": 100})

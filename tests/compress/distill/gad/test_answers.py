"""Blocks of answers, and the student's writing of them, against models that see no filling."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from one_core import one_core  # noqa: F401
from tiny_models import make_model_dir

from edgepress.compress.distill.gad.answers import block, write_answers
from edgepress.compress.student.open import open_student
from edgepress.errors import EdgepressError
from edgepress.runtime.torch_reference import load_model

pytestmark = pytest.mark.usefixtures("one_core")
MOST = 6


def prompts() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(4, 300, length).tolist() for length in (3, 1, 24, 7, 7)]


def model_of(family: str, directory: Path) -> Any:
    return load_model(open_student(str(make_model_dir(family, directory)))).eval()


def one_by_one(model: Any, texts: list[list[int]], most: int, generator: torch.Generator) -> list[list[int]]:
    """Every text alone in the model, without a cache; the draws of a step together."""
    texts = [list(text) for text in texts]
    for _ in range(most):
        with torch.no_grad():
            odds = torch.stack([torch.softmax(model(torch.tensor([text])).logits[0, -1], -1) for text in texts])
        for text, drawn in zip(texts, torch.multinomial(odds, 1, generator=generator), strict=True):
            text.append(int(drawn))
    return texts


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
def test_what_is_written_is_what_the_model_would_say_without_filling(family: str, tmp_path: Path) -> None:
    model = model_of(family, tmp_path / "model")
    found = write_answers(model, prompts(), MOST, frozenset(), torch.Generator().manual_seed(1))
    wanted = one_by_one(model, prompts(), MOST, torch.Generator().manual_seed(1))
    assert [prompt + answer for prompt, answer in zip(prompts(), found, strict=True)] == wanted


def test_an_answer_ends_with_the_first_token_that_ends_one(tmp_path: Path) -> None:
    model = model_of("llama", tmp_path / "model")
    free = write_answers(model, prompts(), MOST, frozenset(), torch.Generator().manual_seed(1))
    stops = frozenset({free[0][2], free[1][0]})
    found = write_answers(model, prompts(), MOST, stops, torch.Generator().manual_seed(1))
    for answer, whole in zip(found, free, strict=True):
        ends = [place for place, token in enumerate(whole) if token in stops]
        assert answer == (whole[: ends[0] + 1] if ends else whole)
    assert len(found[1]) == 1
    everything = frozenset(range(model.config.vocab_size))
    assert all(len(a) == 1 for a in write_answers(model, prompts(), MOST, everything, torch.Generator().manual_seed(1)))


def test_a_student_that_training_has_broken_is_told_so(tmp_path: Path) -> None:
    model = model_of("llama", tmp_path / "model")
    torch.nn.init.constant_(model.lm_head.weight, math.inf)
    with pytest.raises(EdgepressError, match=r"training diverged.*lower its learning rate"):
        write_answers(model, prompts(), MOST, frozenset(), torch.Generator().manual_seed(1))


def test_a_block_marks_the_answers_tokens_and_their_last() -> None:
    found = block([[5, 6], [7]], [[8], [9, 10, 11]])
    assert found.tokens.tolist() == [[5, 6, 8, 0], [7, 9, 10, 11]]
    assert found.tokens[:, 1:][found.answered].tolist() == [8, 9, 10, 11]
    assert found.last.tolist() == [2, 3]
    parts = found.pieces(4)
    assert [rows for rows, _ in parts] == [slice(0, 1), slice(1, 2)]
    assert len(found.pieces(8)) == 1
    assert torch.equal(torch.cat([part.tokens for _, part in parts]), found.tokens)

"""A model with fewer tokens is the same model on the tokens that stay."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import CORPUS, FAMILY_NAMES, make_model_dir
from transformers import AutoModelForCausalLM, AutoTokenizer

from edgepress.compress.prune.config import TrimVocabulary
from edgepress.compress.prune.trim import bits_per_byte, choose_tokens, count_tokens, cut_pieces, write_model
from edgepress.compress.student.checkpoint import CheckpointStudent
from edgepress.compress.student.open import open_student
from edgepress.runtime.text import TextCodec

STEP = TrimVocabulary(keep=0.9, multiple_of=8)


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[int]]:
    """The student's directory, that of the trimmed one, and the ids that stay."""
    root = tmp_path_factory.mktemp(request.param)
    student = open_student(str(make_model_dir(request.param, root / "student")))
    kept = choose_tokens(student, STEP, {"In 1984 there were 12345 reasons, weren't there? ": 4})
    (root / "trimmed").mkdir()
    write_model(student, kept, root / "trimmed", name="Tiny")
    return root / "student", root / "trimmed", kept.tolist()


def test_logits_of_the_tokens_that_stay_are_equal_to_the_bit(scene: tuple[Path, Path, list[int]]) -> None:
    whole, trimmed = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval() for path in scene[:2])
    kept = torch.tensor(scene[2])
    ids = torch.randint(len(kept), (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = whole.model(kept[ids]).last_hidden_state @ whole.lm_head.weight[kept].T
        # The same product over as many rows; another number of rows may be summed in another order.
        assert torch.equal(trimmed(ids).logits, wanted)
        torch.testing.assert_close(trimmed(ids).logits, whole(kept[ids]).logits[..., kept])


def test_as_many_stay_as_were_asked_for(scene: tuple[Path, Path, list[int]]) -> None:
    rows = open_student(str(scene[0])).spec.vocab
    found = CheckpointStudent(scene[1])
    assert len(scene[2]) == found.spec.vocab == math.ceil(0.9 * rows / 8) * 8 < rows
    assert found.parameters < open_student(str(scene[0])).parameters


def test_transformers_reads_the_tokenizer_and_the_ids_of_the_settings(scene: tuple[Path, Path, list[int]]) -> None:
    before, after = (AutoTokenizer.from_pretrained(path) for path in scene[:2])
    assert after.bos_token == before.bos_token
    assert scene[2][after.eos_token_id] == before.eos_token_id
    config = json.loads((scene[1] / "config.json").read_text(encoding="utf-8"))
    assert [scene[2][config[f"{name}_token_id"]] for name in ("bos", "eos", "pad")] == [0, 1, 2]
    text = "<|im_start|>user\nThe quick brown fox<|im_end|>"
    assert after.decode(after(text)["input_ids"]) == text


def test_bits_per_byte_are_those_of_the_model_in_float64(scene: tuple[Path, Path, list[int]]) -> None:
    texts = ["The quick brown fox jumps.", "def area(radius):", "caf\u00e9"]
    trimmed = CheckpointStudent(scene[1])
    model = AutoModelForCausalLM.from_pretrained(scene[1], dtype=torch.float64).eval()
    codec, nats, count = TextCodec(scene[1]), 0.0, 0
    with torch.inference_mode():
        for text in texts:
            ids = torch.tensor([[model.config.bos_token_id, *codec.encode(text, special=False)]])
            logits = model(ids).logits[0, :-1].log_softmax(-1)
            nats -= float(logits[torch.arange(len(logits)), ids[0, 1:]].sum())
            count += len(logits)
    assert count_tokens(trimmed, texts) == count
    assert bits_per_byte(trimmed, texts) == pytest.approx(
        nats / math.log(2) / sum(len(text.encode()) for text in texts), rel=1e-5
    )


def test_pieces_are_the_texts_and_none_is_too_long() -> None:
    pieces = cut_pieces([CORPUS * 3, "\u4f60" * 100, "", " \n"], 64)
    assert "".join(pieces) == CORPUS * 3 + "\u4f60" * 100
    assert max(len(piece.encode()) for piece in pieces) <= 64


def test_a_model_that_has_more_rows_than_tokens_loses_those_first(tmp_path: Path) -> None:
    student = open_student(str(make_model_dir("llama", tmp_path / "student", vocab_size=400)))
    tokens = len(TextCodec(student.tokenizer_dir).vocabulary)
    kept = choose_tokens(student, TrimVocabulary(keep=1, multiple_of=1), {CORPUS: 1})
    np.testing.assert_array_equal(kept, np.arange(tokens))


def test_ids_in_settings_follow_and_those_that_are_named_stay(tmp_path: Path) -> None:
    directory = make_model_dir("llama", tmp_path / "student")
    last = open_student(str(directory)).spec.vocab - 1  # an ordinary token, and the first that would go
    settings = {
        "eos_token_id": [1, last],
        "suppress_tokens": [last - 1, 5],
        "bad_words_ids": [[5], [last - 1, 5]],
        "temperature": 0.5,
    }
    (directory / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["added_tokens_decoder"] = {"1": {"content": "<|im_end|>"}, "999": {"content": "beyond"}}
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    student = open_student(str(directory))
    kept = choose_tokens(student, TrimVocabulary(keep=0.9, multiple_of=1), {"a": 1}).tolist()
    (tmp_path / "out").mkdir()
    write_model(student, np.asarray(kept, np.int32), tmp_path / "out", name="Tiny")
    found = json.loads((tmp_path / "out" / "generation_config.json").read_text(encoding="utf-8"))
    assert last in kept
    assert last - 1 not in kept
    assert [kept[token] for token in found["eos_token_id"]] == [1, last]
    assert [kept[token] for token in found["suppress_tokens"]] == [5]
    assert [[kept[token] for token in each] for each in found["bad_words_ids"]] == [[5]]
    assert found["temperature"] == 0.5
    tokenizer = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert tokenizer["added_tokens_decoder"] == {str(kept.index(1)): {"content": "<|im_end|>"}}

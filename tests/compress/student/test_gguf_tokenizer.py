"""The tokenizer out of a GGUF file against llama.cpp's own reading of the same file."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tiny_models import CORPUS, make_model_dir

from edgepress.compress.student.gguf_file import GgufFile
from edgepress.errors import InputError

HARD_TEXTS = (
    "Hello world",
    " leading and trailing ",
    "12345 67.89 3rd x1y2 1000000",
    "don't I'LL we've 'tis",
    "tabs\tand\n\nnewlines\r\n  indented\n",
    "   many    spaces   ",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "a<|endoftext|>b <|unknown|> c",
    "你好，世界！ こんにちは 안녕",
    "Été naïve café e\u0301 ÅNGSTRÖM",
    "🙂👩\u200d👩\u200d👧 ✨ \u00a0no-break\u3000wide",
    "def f(x):\n    return x**2  # ½ ² Ⅳ",
    "....!!!???---___ a=1&b=%20 `code` $x ^y ~z |",
    "",
)


def _random_texts(count: int) -> list[str]:
    draw = random.Random(0)
    letters = [chr(code) for code in (*range(32, 127), 9, 10, 13, 0xA0, 0xE9, 0x416, 0x4E2D, 0x1F600, 0x300, 0x915)]
    return ["".join(draw.choices(letters, k=draw.randint(1, 40))) for _ in range(count)]


def _tokenize_in_llama_cpp(path: Path, texts: list[str], add_bos: bool) -> list[list[int]]:
    llama_cpp = pytest.importorskip("llama_cpp")
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    tokens = [model.tokenize(text.encode(), add_bos=add_bos, special=True) for text in texts]
    model.close()
    return tokens


def _check_against_llama_cpp(path: Path, add_bos: bool) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(GgufFile(path).tokenizer_dir)
    texts = [*HARD_TEXTS, *_random_texts(300)]
    for text, wanted in zip(texts, _tokenize_in_llama_cpp(path, texts, add_bos), strict=True):
        assert tokenizer(text)["input_ids"] == wanted, repr(text)
        plain = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(plain, skip_special_tokens=False) == text


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2", "deepseek-coder", "dbrx", "default"])
def test_byte_level_tokens_are_llama_cpps(pre: str, llama_dir: Path, tmp_path: Path, write_gguf: Any) -> None:
    _check_against_llama_cpp(write_gguf(llama_dir, tmp_path / "tiny.gguf", pre=pre), add_bos=False)


def test_text_begins_with_bos_where_the_file_asks_for_it(llama_dir: Path, tmp_path: Path, write_gguf: Any) -> None:
    path = write_gguf(llama_dir, tmp_path / "tiny.gguf", metadata={"tokenizer.ggml.add_bos_token": True})
    _check_against_llama_cpp(path, add_bos=True)


@pytest.mark.parametrize("prefix", [True, False])
def test_sentence_piece_tokens_are_llama_cpps(prefix: bool, tmp_path: Path, write_gguf: Any) -> None:
    fields = _sentence_piece() | {"tokenizer.ggml.add_space_prefix": prefix}
    directory = make_model_dir("llama", tmp_path / "s", vocab_size=len(fields["tokenizer.ggml.tokens"]))
    path = write_gguf(directory, tmp_path / "tiny.gguf", metadata=fields)
    _check_against_llama_cpp(path, add_bos=True)


def _sentence_piece() -> dict[str, Any]:
    """A SentencePiece vocabulary: control tokens, all bytes, pieces whose score falls with the order of merging."""
    from tokenizers import Tokenizer, models, normalizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.train_from_iterator(CORPUS.splitlines(), trainers.BpeTrainer(vocab_size=300, show_progress=False))
    model = json.loads(tokenizer.to_str())["model"]
    pieces = ["".join(merge) for merge in model["merges"]]
    pieces += [piece for piece in model["vocab"] if len(piece) == 1]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, "<|user|>"]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": None,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(rank) for rank in range(len(pieces))] + [-1000.0],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(pieces) + [4],
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": None,
        "tokenizer.ggml.add_bos_token": None,
    }


@pytest.mark.slow
def test_the_built_in_students_tokens_are_llama_cpps(built_in_file: Path) -> None:
    _check_against_llama_cpp(built_in_file, add_bos=False)


@pytest.mark.slow
def test_the_built_in_student_reads_whole(built_in_file: Path) -> None:
    student = GgufFile(built_in_file)
    assert (student.spec.depth, student.spec.hidden, student.spec.vocab, student.spec.tied) == (30, 576, 49152, True)
    assert student.parameters == 134_515_008
    assert "Q4_1: 210 tensors" in student.notes[0]
    assert all(student.read(name).std() > 0 for name in student.names)


def test_special_tokens_and_the_chat_template_come_along(llama_dir: Path, tmp_path: Path, write_gguf: Any) -> None:
    from transformers import AutoTokenizer

    directory = GgufFile(write_gguf(llama_dir, tmp_path / "tiny.gguf")).tokenizer_dir
    tokenizer, original = AutoTokenizer.from_pretrained(directory), AutoTokenizer.from_pretrained(llama_dir)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 2)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "Hi"
    assert set(tokenizer.added_tokens_encoder) == set(original.added_tokens_encoder)
    settings = json.loads((directory / "generation_config.json").read_text())
    assert settings == {"bos_token_id": 0, "pad_token_id": 2, "eos_token_id": [1, 0]}


def test_a_missing_pre_tokenizer_is_noted(llama_dir: Path, tmp_path: Path, write_gguf: Any) -> None:
    student = GgufFile(write_gguf(llama_dir, tmp_path / "tiny.gguf", metadata={"tokenizer.ggml.pre": None}))
    assert "does not say how its tokenizer cuts words" in student.notes[0]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"tokenizer.ggml.scores": [0.0]}, r"scores must be \d+ finite numbers, one per token"),
        ({"tokenizer.ggml.token_type": [1, 2]}, r"token_type must be \d+ integers, one per token"),
        ({"tokenizer.ggml.add_bos_token": "yes"}, r"add_bos_token must be true or false, got 'yes'"),
    ],
)
def test_a_damaged_vocabulary_is_one_line(
    metadata: dict[str, Any], message: str, tmp_path: Path, write_gguf: Any
) -> None:
    fields = _sentence_piece()
    directory = make_model_dir("llama", tmp_path / "s", vocab_size=len(fields["tokenizer.ggml.tokens"]))
    path = write_gguf(directory, tmp_path / "tiny.gguf", metadata=fields | metadata)
    with pytest.raises(InputError, match=message) as caught:
        GgufFile(path)
    assert "\n" not in str(caught.value)


def test_a_repeated_token_is_refused(tmp_path: Path, write_gguf: Any) -> None:
    fields = _sentence_piece()
    tokens = fields["tokenizer.ggml.tokens"]
    tokens[-1] = tokens[300]
    directory = make_model_dir("llama", tmp_path / "s", vocab_size=len(tokens))
    path = write_gguf(directory, tmp_path / "tiny.gguf", metadata=fields)
    with pytest.raises(InputError, match=r"has the token .* twice"):
        GgufFile(path)

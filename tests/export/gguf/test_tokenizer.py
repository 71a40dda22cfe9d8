"""Tokenizers in llama.cpp against the ``tokenizers`` library."""

from __future__ import annotations

import json
import random
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from tiny_tokenizers import LLAMA3_PATTERN, QWEN2_PATTERN, SPACE, TEXT, byte_level, sentencepiece_like

from edgepress.artifact.gguf_header import read_gguf_header
from edgepress.artifact.hf_config import model_spec
from edgepress.artifact.plan import ModelPlan
from edgepress.errors import InputError, ParityError
from edgepress.export.gguf.tokenizer import add_tokenizer, check_tokenizer
from edgepress.export.gguf.tokenizer.files import read_tokenizer_files
from edgepress.export.gguf.tokenizer.vocabulary import Kind, read_vocabulary
from edgepress.runtime.llamacpp_library import VocabularyFile

gguf = pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")


def _export(directory: Path, *, vocab: int | None = None, **config: Any) -> tuple[Path, dict[str, Any]]:
    """A file with nothing but the tokenizer, and its metadata."""
    known = read_tokenizer_files(directory).token_ids()
    fields = {
        "model_type": "llama",
        "vocab_size": vocab or max(known.values()) + 1,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
    }
    fields |= config
    plan = ModelPlan(name="t", spec=model_spec(fields), config=fields, tokenizer_dir=directory, tensors=())
    path = directory / "tokenizer.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    add_tokenizer(writer, plan)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path, read_gguf_header(path).metadata


def _steps(*parts: str) -> list[Any]:
    """ "digits", "gpt2" and "bytes" are steps of their own; anything else is a pattern to split by."""
    from tokenizers import Regex, pre_tokenizers

    made: dict[str, Any] = {
        "digits": pre_tokenizers.Digits(individual_digits=True),
        "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
        "bytes": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    }
    return [made.get(part) or pre_tokenizers.Split(Regex(part), "isolated") for part in parts]


STRUCTURES = {
    "gpt-2": (["gpt2"], False),
    "smollm": (["digits", "gpt2"], False),
    "llama-bpe": ([LLAMA3_PATTERN, "bytes"], True),
    "smaug-bpe": ([LLAMA3_PATTERN, "bytes"], False),
    "qwen2": ([QWEN2_PATTERN, "bytes"], False),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_byte_level_tokenizers_are_named_by_structure_and_behave_alike(name: str, tmp_path: Path) -> None:
    parts, ignore_merges = STRUCTURES[name]
    directory = byte_level(tmp_path / "t", _steps(*parts), ignore_merges=ignore_merges)
    path, metadata = _export(directory)
    assert metadata["tokenizer.ggml.pre"] == name
    _assert_same_tokens(path, directory)


def test_digits_and_patterns_written_out_are_recognised_as_the_same_structure(tmp_path: Path) -> None:
    gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    path, metadata = _export(byte_level(tmp_path / "t", _steps(r"\p{N}", gpt2, "bytes")))
    assert metadata["tokenizer.ggml.pre"] == "smollm"
    check_tokenizer(path, tmp_path / "t")


def test_an_unknown_structure_gets_the_first_name_that_behaves_alike(tmp_path: Path) -> None:
    # Qwen 2's pattern with its alternatives in brackets: another text, the same pieces.
    directory = byte_level(tmp_path / "t", _steps(f"(?:{QWEN2_PATTERN})", "bytes"))
    path, _ = _export(directory)
    _assert_same_tokens(path, directory)


def test_a_structure_that_llama_cpp_does_not_have_is_refused(tmp_path: Path) -> None:
    directory = byte_level(tmp_path / "t", _steps("[aeiou]", "bytes"))
    with pytest.raises(InputError, match="no pre-tokenizer that splits text like this one"):
        _export(directory)


def test_a_wrong_name_is_caught_and_the_text_named(tmp_path: Path) -> None:
    directory = byte_level(tmp_path / "t", _steps("digits", "gpt2"))
    path, _ = _export(directory)
    data = path.read_bytes()
    wrong = data.replace(struct.pack("<Q", 6) + b"smollm", struct.pack("<Q", 5) + b"qwen2")
    assert wrong != data
    path.write_bytes(wrong)
    with pytest.raises(ParityError, match=r"llama\.cpp tokenizes '.+' differently .* at token \d+ it has '"):
        check_tokenizer(path, directory)


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_tokenizers_get_scores_from_their_merges(prefix: bool, tmp_path: Path) -> None:
    directory = sentencepiece_like(tmp_path / "t", prefix=prefix)
    path, metadata = _export(directory)
    assert metadata["tokenizer.ggml.model"] == "llama"
    assert metadata["tokenizer.ggml.add_space_prefix"] is prefix
    assert metadata["tokenizer.ggml.add_bos_token"] is True
    assert metadata["tokenizer.ggml.bos_token_id"] == 1
    _assert_same_tokens(path, directory)


def test_sentencepiece_kinds_follow_the_tokens_roles(tmp_path: Path) -> None:
    directory = sentencepiece_like(tmp_path / "t", prefix=False)
    document = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    document["added_tokens"].append(document["added_tokens"][-1] | {"id": 501, "content": SPACE * 3})
    (directory / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    vocabulary = read_vocabulary(read_tokenizer_files(directory), 504)
    wanted = {0: Kind.UNKNOWN, 1: Kind.CONTROL, 2: Kind.CONTROL, 3: Kind.BYTE, 258: Kind.BYTE, 260: Kind.NORMAL}
    wanted |= {500: Kind.USER_DEFINED, 501: Kind.USER_DEFINED, 502: Kind.UNUSED, 503: Kind.UNUSED}
    assert {i: vocabulary.kinds[i] for i in wanted} == wanted
    assert vocabulary.tokens[501] == "   "  # llama.cpp matches such tokens in the text as it is written


def test_the_vocabulary_is_filled_up_to_the_models_rows(tmp_path: Path) -> None:
    directory = byte_level(tmp_path / "t", _steps("gpt2"))
    path, metadata = _export(directory, vocab=512)
    assert len(metadata["tokenizer.ggml.tokens"]) == 512
    assert metadata["tokenizer.ggml.tokens"][-1] == "[PAD511]"
    assert metadata["tokenizer.ggml.token_type"][-1] == Kind.UNUSED
    check_tokenizer(path, directory)


def test_more_tokens_than_rows_are_refused(tmp_path: Path) -> None:
    directory = byte_level(tmp_path / "t", _steps("gpt2"))
    with pytest.raises(InputError, match="beyond the model's vocabulary of 300"):
        _export(directory, vocab=300)


def test_added_tokens_without_a_row_are_left_out(tmp_path: Path) -> None:
    directory = byte_level(tmp_path / "t", _steps("gpt2"))
    rows = max(read_tokenizer_files(directory).token_ids().values()) + 1
    document = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    document["added_tokens"].append(document["added_tokens"][0] | {"id": rows, "content": "<image>"})
    (directory / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    path, metadata = _export(directory, vocab=rows)
    assert "<image>" not in metadata["tokenizer.ggml.tokens"]
    check_tokenizer(path, directory)


def test_special_tokens_come_from_the_settings_and_the_configuration(tmp_path: Path) -> None:
    template = "{{ '<|im_start|>' + messages[0]['content'] + '<|im_end|>' }}"
    directory = byte_level(
        tmp_path / "t", _steps("gpt2"), chat_template=template, unk_token={"content": "<|endoftext|>"}
    )
    path, metadata = _export(directory, pad_token_id=2)
    keys = ("bos", "eos", "unknown", "padding", "eot")
    assert [metadata[f"tokenizer.ggml.{key}_token_id"] for key in keys] == [1, 2, 0, 2, 2]
    assert metadata["tokenizer.ggml.add_bos_token"] is False
    assert metadata["tokenizer.chat_template"] == template
    with VocabularyFile(path) as file:
        assert (file.vocabulary.bos_id, file.vocabulary.eos_id, file.vocabulary.eot_id) == (1, 2, 2)
        assert file.vocabulary.chat_template() == template
        assert file.vocabulary.ends_generation(2) and not file.vocabulary.ends_generation(300)


def test_a_template_in_its_own_file_comes_before_the_one_in_the_settings(tmp_path: Path) -> None:
    directory = byte_level(tmp_path / "t", _steps("gpt2"), chat_template="old")
    (directory / "chat_template.jinja").write_text("new", encoding="utf-8")
    assert _export(directory)[1]["tokenizer.chat_template"] == "new"


def test_the_settings_decide_whether_a_bos_is_added(tmp_path: Path) -> None:
    directory = byte_level(tmp_path / "t", _steps("gpt2"), add_bos_token=True)
    path, _ = _export(directory)
    with VocabularyFile(path) as file:
        assert file.vocabulary.add_bos


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not found; GGUF export needs the fast tokenizer"),
        ("{", "cannot be read as JSON"),
        ("[]", "wanted a JSON object"),
        ("{}", "no tokenizer model inside"),
        (
            '{"model": {"type": "Unigram", "unk_id": null, "vocab": [["a", 0.0]]}}',
            "a Unigram tokenizer cannot go into a GGUF file",
        ),
        ('{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": 5}}', "cannot be read as a tokenizer"),
    ],
)
def test_a_missing_or_damaged_tokenizer_is_one_line(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_vocabulary(read_tokenizer_files(tmp_path), 100)
    assert "\n" not in str(caught.value)


def _assert_same_tokens(path: Path, directory: Path) -> None:
    """The check's own texts, then random cuts of the training text."""
    from tokenizers import Tokenizer

    check_tokenizer(path, directory)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    draw = random.Random(0)
    with VocabularyFile(path) as file:
        for _ in range(200):
            start = draw.randrange(len(TEXT))
            text = TEXT[start : start + draw.randint(1, 40)]
            wanted = tokenizer.encode(text, add_special_tokens=False).ids
            assert file.vocabulary.tokenize(text, special=True) == wanted, repr(text)

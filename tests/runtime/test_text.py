"""Text and chat as transformers' tokenizers have them, without transformers."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from chat_templates import CONVERSATIONS, LLAMA3, STRICT, TEMPLATES, set_template
from tiny_models import make_tokenizer
from tiny_tokenizers import sentencepiece_like

from edgepress.errors import InputError
from edgepress.runtime.text import TextCodec, render_template

TEXTS = ["Hello, there!", " leading and trailing ", "1984 \u00c9t\u00e9 \u4f60\u597d\U0001f600", "", "<|im_end|>x"]
QUESTION = CONVERSATIONS["one question"]
REFUSED = ("strict", "a system message")
ACCEPTED = [pair for pair in product(TEMPLATES, CONVERSATIONS) if pair != REFUSED]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A tokenizer in the manner of GPT-2 with a plain chat template."""
    (tmp_path / "tokenizer").mkdir()
    make_tokenizer(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.fixture
def with_bos(tmp_path: Path) -> Path:
    """A tokenizer in the manner of Llama 2, which begins every text with <s>; no template."""
    return sentencepiece_like(tmp_path / "with_bos", prefix=True)


def theirs(directory: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(directory)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("special", [True, False])
def test_tokens_are_those_of_transformers(text: str, special: bool, directory: Path, with_bos: Path) -> None:
    for place in (directory, with_bos):
        codec = TextCodec(place)
        ids = codec.encode(text, special=special)
        assert ids == theirs(place).encode(text, add_special_tokens=special)
        assert codec.decode(ids) == theirs(place).decode(ids, skip_special_tokens=True)


def test_a_bos_is_what_the_tokenizer_puts_in_front(directory: Path, with_bos: Path) -> None:
    assert TextCodec(directory).bos is None
    assert TextCodec(with_bos).bos == theirs(with_bos).bos_token_id


@pytest.mark.parametrize(("template", "conversation"), ACCEPTED)
def test_a_conversation_has_the_ids_that_transformers_gives_it(
    template: str, conversation: str, directory: Path
) -> None:
    set_template(directory, TEMPLATES[template])
    messages = CONVERSATIONS[conversation]
    wanted = theirs(directory).apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert TextCodec(directory).chat(messages) == wanted
    rendered = theirs(directory).apply_chat_template(messages, tokenize=False)
    assert TextCodec(directory).render(messages, answer=False) == rendered


def test_a_template_that_writes_the_bos_itself_gets_no_second_one(with_bos: Path) -> None:
    set_template(with_bos, LLAMA3)
    wanted = theirs(with_bos).apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)
    assert wanted.count(theirs(with_bos).bos_token_id) == 1
    assert TextCodec(with_bos).chat(QUESTION) == wanted


def test_a_template_names_special_tokens_that_are_written_as_objects(directory: Path) -> None:
    path = directory / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    token = {"__type": "AddedToken", "content": "<|pad|>", "lstrip": False, "normalized": False}
    path.write_text(json.dumps(settings | {"bos_token": token, "add_bos_token": True}), encoding="utf-8")
    set_template(directory, LLAMA3)
    wanted = theirs(directory).apply_chat_template(QUESTION, tokenize=False)
    assert wanted.startswith("<|pad|>")
    assert TextCodec(directory).render(QUESTION, answer=False) == wanted


def test_every_special_token_has_its_name_in_the_template(directory: Path) -> None:
    set_template(directory, "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token }}|")
    wanted = theirs(directory).apply_chat_template(QUESTION, tokenize=False)
    assert TextCodec(directory).render(QUESTION, answer=False) == wanted == "<|endoftext|>|<|im_end|>|<|pad|>||"


def test_the_default_one_of_several_templates_is_for_chatting(directory: Path) -> None:
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": LLAMA3}]
    path = directory / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"chat_template": named}
    path.write_text(json.dumps(settings), encoding="utf-8")
    assert TextCodec(directory).template == LLAMA3


def test_a_template_in_a_file_of_its_own_goes_first(directory: Path) -> None:
    (directory / "chat_template.jinja").write_text(LLAMA3, encoding="utf-8")
    wanted = theirs(directory).apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)
    assert TextCodec(directory).chat(QUESTION) == wanted


def test_without_a_template_messages_are_lines_after_what_begins_every_text(with_bos: Path) -> None:
    codec = TextCodec(with_bos)
    assert codec.template is None
    assert codec.chat(QUESTION) == codec.encode("Hello, there!\n", special=True)
    assert codec.chat(QUESTION)[0] == codec.bos


def test_a_template_that_refuses_is_one_line_with_its_reason(directory: Path) -> None:
    set_template(directory, STRICT)
    with pytest.raises(InputError, match="refuses this conversation: System role not supported"):
        TextCodec(directory).chat(CONVERSATIONS["a system message"])
    with pytest.raises(InputError, match="Roles must alternate"):
        TextCodec(directory).chat(QUESTION * 2)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for x in %}", "cannot be rendered"),
        ("{{ messages[0].role.missing.attribute }}", "cannot be rendered"),
        ("{{ 1 // 0 }}", "cannot be rendered: .*division"),
        ("{{ messages.__class__.__mro__ }}", "cannot be rendered: access to attribute '__class__'"),
        ("{% set x = messages.append(1) %}", "cannot be rendered"),
        ("{% include 'other' %}", "cannot be rendered"),
    ],
)
def test_a_broken_or_hostile_template_is_one_error(template: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        render_template(template, QUESTION, {}, answer=True)


def test_an_answer_ends_at_every_id_that_tokenizer_and_configuration_name(directory: Path) -> None:
    assert TextCodec(directory).stop_ids == {1}
    (directory / "config.json").write_text('{"eos_token_id": 7}', encoding="utf-8")
    assert TextCodec(directory).stop_ids == {1, 7}
    (directory / "generation_config.json").write_text('{"eos_token_id": [3, 9]}', encoding="utf-8")
    assert TextCodec(directory).stop_ids == {1, 3, 9}


def test_what_stands_before_a_users_first_words(directory: Path, with_bos: Path) -> None:
    assert TextCodec(directory).user_opening() == theirs(directory).encode("<|im_start|>user\n")
    set_template(directory, "{% for message in messages %}{{ message.content }}{% endfor %}")
    assert TextCodec(directory).user_opening() == theirs(directory).encode("\n")
    assert TextCodec(with_bos).user_opening() == [theirs(with_bos).bos_token_id]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", None, "no tokenizer.json here"),
        ("tokenizer.json", "{}", r"tokenizer\.json: cannot be read as a tokenizer"),
        ("tokenizer_config.json", "{", r"tokenizer_config\.json: cannot be read as JSON"),
        ("generation_config.json", "\x00", r"generation_config\.json: cannot be read as JSON"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(file: str, content: str | None, message: str, directory: Path) -> None:
    (directory / file).unlink(missing_ok=True)
    if content is not None:
        (directory / file).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message) as raised:
        TextCodec(directory)
    assert "\n" not in str(raised.value)

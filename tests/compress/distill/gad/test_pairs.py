"""Prompts and answers from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_templates import set_template
from tiny_models import make_model_dir

from edgepress.compress.distill.gad.pairs import Pair, check_held_out, read_pairs, split
from edgepress.errors import InputError
from edgepress.runtime.text import TextCodec

END = 1
TALK = [
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Who are you?"},
    {"role": "assistant", "content": "The quick brown fox."},
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_dir("llama", tmp_path_factory.mktemp("pairs") / "student")


def read(model_dir: Path, path: Path, *lines: Any, most: int = 64, context: int = 256) -> list[Pair]:
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return read_pairs(TextCodec(model_dir), (str(path),), most, context)


def test_a_conversation_is_what_is_said_at_run_time_and_the_answer(model_dir: Path, tmp_path: Path) -> None:
    codec = TextCodec(model_dir)
    (pair,) = read(model_dir, tmp_path / "t.jsonl", {"messages": TALK})
    assert list(pair.prompt) == codec.chat(TALK[:-1])
    assert list(pair.answer) == [*codec.encode("The quick brown fox.", special=False), END]
    assert pair.finished


def test_a_prompt_and_an_answer_are_a_conversation_of_two_turns(model_dir: Path, tmp_path: Path) -> None:
    plain, talk = {"prompt": "Who are you?", "answer": "A fox."}, [dict(TALK[2]), TALK[3] | {"content": "A fox."}]
    found = read(model_dir, tmp_path / "t.jsonl", plain, {"messages": talk})
    assert found[0] == found[1]


def test_without_a_template_the_answer_goes_on_from_the_prompt(tmp_path: Path) -> None:
    plain = make_model_dir("llama", tmp_path / "plain")
    set_template(plain, None)
    (pair,) = read(plain, tmp_path / "t.jsonl", {"prompt": "The quick", "answer": " brown fox."})
    whole = TextCodec(plain).encode("The quick brown fox.", special=False)
    assert [*pair.prompt, *pair.answer] == [*whole, END]


def test_a_long_answer_is_cut_and_unfinished(model_dir: Path, tmp_path: Path) -> None:
    whole, cut = (read(model_dir, tmp_path / "t.jsonl", {"messages": TALK}, most=most)[0] for most in (64, 3))
    assert cut.answer == whole.answer[:3]
    assert not cut.finished
    exact = read(model_dir, tmp_path / "t.jsonl", {"messages": TALK}, most=len(whole.answer))[0]
    assert exact == whole


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"text": "words"}, r't\.jsonl:1: wanted \{"messages"'),
        ({"messages": "words"}, "wanted"),
        ({"messages": [{"role": "user"}]}, "wanted"),
        ({"messages": TALK[:3]}, "ends with words of 'user'; wanted the teacher's answer last"),
        ({"messages": [TALK[0], {"role": "assistant", "content": " \n"}]}, "the teacher's answer is empty"),
        ({"prompt": "Hi", "answer": ""}, "the teacher's answer is empty"),
        ({"prompt": "Hi. " * 100, "answer": "Hi."}, "are more than the 256 that the student takes"),
    ],
)
def test_a_line_that_is_no_pair_is_named(model_dir: Path, tmp_path: Path, line: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(model_dir, tmp_path / "t.jsonl", line)


def pairs(prompts: int, answers: int = 1) -> list[Pair]:
    return [Pair((prompt,), (10 + answer, END), True) for prompt in range(prompts) for answer in range(answers)]


def test_prompts_are_held_out_with_all_their_answers() -> None:
    train, held_out = split(pairs(20, 3), 0)
    assert sorted([*train, *held_out]) == sorted(pairs(20, 3))
    assert len(held_out) == 5 * 3
    assert not {pair.prompt for pair in train} & {pair.prompt for pair in held_out}
    assert split(pairs(20, 3), 0) == (train, held_out) != split(pairs(20, 3), 1)
    assert len(split(pairs(8), 0)[1]) == 4
    assert len(split(pairs(4000), 0)[1]) == 256


def test_too_little_to_judge_by_is_refused() -> None:
    with pytest.raises(InputError, match="14 answers to 7 different prompts"):
        split(pairs(7, 2), 0)
    with pytest.raises(InputError, match="3 prompts; half of them judge"):
        check_held_out(pairs(4), pairs(8)[4:7])
    with pytest.raises(InputError, match="1 of its prompts are in the text"):
        check_held_out(pairs(4), pairs(8)[3:])
    check_held_out(pairs(4), pairs(8)[4:])

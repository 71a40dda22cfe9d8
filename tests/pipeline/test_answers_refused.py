"""What ``edgepress answers`` cannot do is refused in one line, and nothing is written over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from asked_teacher import ask, make_place, make_teacher  # noqa: F401
from commands import edgepress
from one_core import one_core  # noqa: F401

pytestmark = pytest.mark.usefixtures("one_core")


def write(name: str, content: str) -> Callable[[], object]:
    return lambda: Path(name).write_text(content, encoding="utf-8")


HTTP = ("--teacher", "http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (None, ("-o", "answers.txt"), "wanted a name that ends in .jsonl"),
        (write("answers.jsonl", "mine"), (), "exists and was not written by this command"),
        (write("prompts.txt", "\n \n"), (), "no prompts in it"),
        (lambda: Path("prompts.txt").unlink(), (), "prompts.txt: no such file"),
        (None, ("--per-prompt", "2"), "give a --temperature"),
        (None, ("--min-chars", "9", "--max-chars", "8"), "--max-chars 8: less than --min-chars 9, so that no answer"),
        (None, ("--refuse", "("), "no regular expression"),
        (None, ("--temperature", "inf"), "--temperature inf: wanted a number"),
        (None, ("--model", "x"), "--model and --key-env are of an endpoint"),
        (None, ("--teacher", "./none"), "none: no such file or directory"),
        (None, ("--engine", "onnxruntime"), "no .gguf file, ONNX directory"),
        (None, ("--context", "8"), "prompts.txt:1: 31 tokens"),
        (None, HTTP, "name one of its models by --model"),
        (None, (*HTTP, "--model", "x", "--key-env", "sk-9"), "no variable of that name is set"),
        (None, (*HTTP, "--model", "x", "--threads", "1"), "are of a local teacher"),
        (write("answers.raw.jsonl", "mine\n"), (), "not a file of this command"),
        (write("answers.raw.jsonl", "mine"), (), "not a file of this command"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    teacher: Path, place: Path, change: Callable[[], object] | None, options: tuple[str, ...], message: str
) -> None:
    if change:
        change()
    before = {file.name: file.read_bytes() for file in place.iterdir()}
    found = ask(teacher, *options).error()
    assert message in found
    assert "sk-9" not in found
    assert {file.name: file.read_bytes() for file in place.iterdir()} == before


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "{}",
        '{"prompt": "a", "messages": []}',
        '{"messages": []}',
        '{"prompt": " "}',
        '{"prompt": "\\ud83d"}',
        '{"messages": [{"role": "assistant", "content": "x"}]}',
        '{"messages": [{"role": "tool", "content": "x"}]}',
    ],
)
def test_a_line_that_is_no_prompt_is_named(teacher: Path, line: str) -> None:
    Path("p.jsonl").write_text(f'{{"prompt": "ok"}}\n\n{line}\n', encoding="utf-8")
    message = edgepress("answers", "p.jsonl", "--teacher", teacher, "-o", "answers.jsonl").error()
    assert message.startswith('p.jsonl:3: wanted {"prompt": "…"} or')


def test_answers_asked_for_in_another_way_are_not_mixed(teacher: Path) -> None:
    assert ask(teacher).code == 0
    message = ask(teacher, "--tokens", "25").error()
    assert "asked for with tokens 24, and now it is 25" in message
    message = ask(teacher, "--context", "96").error()
    assert "asked for with context None, and now it is 96" in message
    assert ask(teacher).code == 0


def test_a_damaged_answer_is_named(teacher: Path) -> None:
    assert ask(teacher).code == 0
    raw = Path("answers.raw.jsonl")
    lines = raw.read_bytes().split(b"\n")
    raw.write_bytes(b"\n".join([*lines[:3], lines[3][:-4], *lines[4:]]))
    assert "answers.raw.jsonl:4: damaged" in ask(teacher).error()

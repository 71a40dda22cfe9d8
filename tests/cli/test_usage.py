"""Wrong usage of the command line is one line, that says where help is."""

from __future__ import annotations

import pytest
from commands import edgepress


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("distil", "No such command 'distil'. Did you mean 'distill'? (see 'edgepress --help')"),
        ("run", "Missing argument 'STUDENT' (see 'edgepress run --help')"),
        ("run s -o o --recipy 4bit", "No such option: --recipy"),
        ("bench x --threads 0", "(see 'edgepress bench --help')"),
        ("engine bild", "(see 'edgepress engine --help')"),
    ],
)
def test_a_wrong_word_is_one_line(words: str, message: str) -> None:
    assert message in edgepress(*words.split()).error()


@pytest.mark.parametrize(
    "words",
    [
        "distill --text none.txt -o out",
        "gad --student none --text none.jsonl -o out",
        "classifier --text none.jsonl --student none -o out",
        "answers none.txt --teacher none -o out",
    ],
)
def test_a_seed_is_one_that_every_generator_holds(words: str) -> None:
    refused = edgepress(*words.split(), "--seed", str(2**63 - 1)).error()
    assert refused.startswith("Invalid value for '--seed'")
    assert "--seed" not in edgepress(*words.split(), "--seed", str(2**63 - 2)).error()


def test_without_a_word_the_help_is_shown() -> None:
    done = edgepress()
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("Usage: edgepress")

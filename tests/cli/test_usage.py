"""Wrong usage of the command line is one line, that says where help is."""

from __future__ import annotations

import pytest
from commands import edgepress

import edgepress as package


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("distil", "No such command 'distil'"),
        ("run", "Missing argument 'STUDENT' (see 'edgepress run --help')"),
        ("run s -o o --recipy 4bit", "No such option: --recipy"),
        ("bench x --threads 0", "(see 'edgepress bench --help')"),
        ("engine bild", "(see 'edgepress engine --help')"),
        ("engine", "Missing command (see 'edgepress engine --help')"),
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


def test_the_version_and_the_help_are_there() -> None:
    assert edgepress("--version").out == f"{package.__version__}\n"
    page = edgepress("--help").out
    for command in ("run", "compress", "export", "eval", "bench", "chat", "generate", "show", "steps", "recipes"):
        assert f"  {command} " in page
        assert edgepress(command, "--help").code == 0


def test_an_interruption_is_one_line_that_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgepress.compress.student.open.open_student", interrupted)
    done = edgepress("run", "student", "-r", "4bit", "-o", "out")
    assert (done.code, done.out) == (130, "")
    assert done.err == "error: interrupted; run the same command to go on\n"


def test_a_file_that_ends_too_early_is_no_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(name: str) -> None:
        raise EOFError("No data left in file")

    monkeypatch.setattr("edgepress.compress.student.open.open_student", ended)
    done = edgepress("run", "student", "-r", "4bit", "-o", "out")
    assert (done.code, done.out) == (1, "")
    assert done.err.strip() == "error: a file or the input ends too early: No data left in file"

"""A teacher and a file of prompts, as the directory that a test runs in, and the command that asks it."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_server import make_teacher_dir
from commands import Finished, edgepress

WORDS = ("fox", "dog", "jugs", "box", "liquor", "area", "reasons", "café")
PROMPTS = [f"{word} is what, {number}?" for number, word in enumerate(WORDS)]
KEY = "sk-secret-123"
QUICK = ("--tokens", "24", "--max-repeated", "1")


@pytest.fixture(name="teacher", scope="module")
def make_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_teacher_dir(tmp_path_factory.mktemp("teacher") / "model")


@pytest.fixture(name="place", autouse=True)
def make_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEACHER_KEY", KEY)
    return tmp_path


def ask(teacher: Path | str, *options: str | Path, out: str = "answers.jsonl") -> Finished:
    return edgepress("answers", "prompts.txt", "--teacher", teacher, "-o", out, *QUICK, *options)

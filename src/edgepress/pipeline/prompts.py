"""Prompts to ask a teacher: a text file of one a line, or JSONL of ``{"prompt"}`` or ``{"messages"}``.

A prompt is a conversation that ends with the user's turn. Each is named by a digest of its words, so that answers stay
with their prompts when the file grows or loses a line.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import msgspec

from edgepress.compress.calibrate.tokens import read_text, require_file
from edgepress.errors import InputError
from edgepress.runtime.answering import Messages


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A turn."""

    role: Literal["system", "user", "assistant"]
    content: str


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    prompt: str | None = None
    messages: tuple[Message, ...] | None = None


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation that waits for an answer, and the line of the file that it is on."""

    turns: tuple[Message, ...]
    line: int

    @property
    def name(self) -> str:
        """A digest of what is said."""
        return hashlib.sha256(msgspec.json.encode(self.turns)).hexdigest()[:24]

    @property
    def messages(self) -> Messages:
        """The turns, as the chat protocol has them."""
        return [{"role": turn.role, "content": turn.content} for turn in self.turns]

    @property
    def words(self) -> str:
        """What is said, without a system message."""
        return "\n".join(turn.content for turn in self.turns if turn.role != "system")


def read_prompts(path: Path, system: str | None) -> list[Prompt]:
    """All prompts of a file, in order; empty lines are none.

    Args:
        path: read as JSONL where its name ends so.
        system: a system message for those that have none.

    Raises:
        InputError: the file cannot be read, holds no prompt, or has a line that is none; names the line.
    """
    require_file("prompts", str(path))
    lines = [(number, line) for number, line in enumerate(read_text(path).split("\n"), start=1) if line.strip()]
    if not lines:
        raise InputError(f"{path}: no prompts in it; write one a line")
    read = _from_json if path.suffix == ".jsonl" else _from_text
    prompts = []
    for number, line in lines:
        turns = read(line, f"{path}:{number}")
        if system and turns[0].role != "system":
            turns = (Message("system", system), *turns)
        prompts.append(Prompt(turns=turns, line=number))
    return prompts


def distinct(prompts: list[Prompt]) -> list[Prompt]:
    """The first of each that are the same."""
    return list({prompt.name: prompt for prompt in reversed(prompts)}.values())[::-1]


def _from_text(line: str, _where: str) -> tuple[Message, ...]:
    return (Message("user", line.strip()),)


def _from_json(line: str, where: str) -> tuple[Message, ...]:
    try:
        entry = msgspec.json.decode(line, type=_Line)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as error:
        raise _wrong(where, str(error)) from error
    if (entry.prompt is None) == (entry.messages is None):
        raise _wrong(where, "one of the two")
    turns = entry.messages if entry.messages is not None else (Message("user", entry.prompt or ""),)
    if not turns or turns[-1].role != "user" or not turns[-1].content.strip():
        raise _wrong(where, "a conversation ends with the user's words")
    return turns


def _wrong(where: str, why: str) -> InputError:
    return InputError(f'{where}: wanted {{"prompt": "…"}} or {{"messages": [{{"role": …, "content": …}}, …]}}: {why}')

"""A teacher's answers on disk as they come in, so that none is asked for twice: ``<name>.raw.jsonl``.

The first line says how they were asked, each further one is an answer: the prompt's name, which of its answers it is,
and what was said. A line is written whole and reaches the disk before the next question; the last one of a run that was
killed may be cut, and is asked again. One process at a time writes.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from edgepress.artifact.files import write_atomically
from edgepress.errors import InputError
from edgepress.runtime.answering import Answer

Place = tuple[str, int]  # a prompt's name, and which of its answers
_BREAKS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}  # that end a line for str.splitlines


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How answers were asked for: of whom (digest or address), how they are sampled, and a local one's --context."""

    teacher: str
    tokens: int
    temperature: float
    seed: int | None
    context: int | None = None  # as it was asked for


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    prompt: str
    draw: int
    text: str
    finish: str


class AnswerLog:
    """The answers that there are; see :func:`open_log`."""

    def __init__(self, path: Path, stream: BinaryIO, asked: Asked) -> None:
        self._path, self._stream, self._asked = path, stream, asked
        self.answers: dict[Place, Answer] = {}
        self._read()

    def add(self, place: Place, answer: Answer) -> None:
        """Keep an answer."""
        if not self.answers:
            self._stream.truncate(0)
            self._stream.write(json_line(self._asked))
        self._stream.write(self._line(place, answer))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.answers[place] = answer

    def sort(self, places: Sequence[Place]) -> None:
        """Put the answers into an order; those of no place in it come last, in the order of their names."""
        left = sorted(self.answers.keys() - set(places))
        lines = [self._line(place, self.answers[place]) for place in (*places, *left)]
        whole = b"".join((json_line(self._asked), *lines))
        if whole != self._path.read_bytes():
            write_atomically(self._path, whole)

    def _line(self, place: Place, answer: Answer) -> bytes:
        return json_line(_Entry(prompt=place[0], draw=place[1], text=answer.text, finish=answer.finish))

    def _read(self) -> None:
        self._stream.seek(0)
        head, *lines = self._stream.read().split(b"\n")
        if not lines and json_line(self._asked).startswith(head):  # killed before the first line was whole
            return
        self._check(head)
        for number, line in enumerate(lines[:-1], start=2):
            try:
                entry = msgspec.json.decode(line, type=_Entry)
            except msgspec.MsgspecError as error:
                raise InputError(
                    f"{self._path}:{number}: damaged ({error}); remove that line, and its answer is asked for again"
                ) from error
            self.answers[entry.prompt, entry.draw] = Answer(text=entry.text, finish=entry.finish)
        self._stream.seek(-len(lines[-1]), os.SEEK_END)
        self._stream.truncate()

    def _check(self, head: bytes) -> None:
        try:
            found = msgspec.json.decode(head, type=Asked)
        except msgspec.MsgspecError as error:
            raise InputError(f"{self._path}: not a file of this command; choose another -o or move it") from error
        for field in Asked.__struct_fields__:
            was, now = getattr(found, field), getattr(self._asked, field)
            if was != now:
                raise InputError(
                    f"{self._path}: holds answers that were asked for with {field} {was}, and now it is {now}; "
                    "choose another -o, or remove the file to ask again"
                )


@contextmanager
def open_log(path: Path, asked: Asked) -> Iterator[AnswerLog]:
    """Open the answers that there are, and keep other processes out; a file without an answer goes at the end.

    Raises:
        InputError: they were asked for in another way, the file is damaged, or another run writes to it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"{path}: another edgepress run is writing here; wait for it to end") from error
        log = AnswerLog(path, stream, asked)
        try:
            yield log
        finally:
            if not log.answers:
                path.unlink(missing_ok=True)


def json_line(document: Any) -> bytes:
    """A JSON document on one line, by every reader's idea of a line."""
    return json.dumps(msgspec.to_builtins(document), ensure_ascii=False).translate(_BREAKS).encode() + b"\n"

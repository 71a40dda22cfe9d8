"""Prompts and a teacher's answers, as token ids.

    *.jsonl {"messages"}           a conversation that ends with the teacher's answer, in the tokenizer's chat template
    *.jsonl {"prompt", "answer"}   a question and its answer, as a conversation of two turns; where the tokenizer has no
                                   template the answer goes on from the prompt, as text does

An answer ends with the token that ends a turn, and is cut after so many tokens; a cut one is unfinished.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from edgepress.compress.calibrate.tokens import read_text, require_file
from edgepress.errors import InputError
from edgepress.runtime.text import TextCodec

_FEWEST_PROMPTS = 8
_FEWEST_HELD_OUT = 4
_HELD_OUT_SHARE = 4
_MOST_HELD_OUT = 256


class Pair(NamedTuple):
    """A prompt, an answer with the token that ends it, and whether that token is there."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    finished: bool


def read_pairs(codec: TextCodec, files: tuple[str, ...], answer_tokens: int, context: int) -> list[Pair]:
    """All pairs of the files, in order.

    Args:
        codec: the student's tokenizer.
        files: JSONL.
        answer_tokens: at most, of an answer.
        context: tokens that the student takes.

    Raises:
        InputError: a file cannot be read, or a line is no pair, has an empty answer or too long a prompt.
    """
    pairs = []
    for name in files:
        require_file("text", name)
        if Path(name).suffix != ".jsonl":
            raise InputError(
                f'text: {name}: wanted a .jsonl; each line is {{"messages": […]}} or {{"prompt", "answer"}}'
            )
        for where, line in _lines(Path(name)):
            pair = _pair(codec, line, where, answer_tokens)
            if len(pair.prompt) + answer_tokens > context:
                raise InputError(
                    f"{where}: a prompt of {len(pair.prompt)} tokens and an answer of {answer_tokens} are more than "
                    f"the {context} that the student takes; leave it out or lower gad.answer_tokens"
                )
            pairs.append(pair)
    return pairs


def split(pairs: list[Pair], seed: int) -> tuple[list[Pair], list[Pair]]:
    """What is trained on, and what is held out: all pairs of a quarter of the prompts, 256 prompts at the most, drawn.

    Raises:
        InputError: there are fewer than eight prompts.
    """
    prompts = list(dict.fromkeys(pair.prompt for pair in pairs))
    if len(prompts) < _FEWEST_PROMPTS:
        raise InputError(
            f"text: {len(pairs)} answers to {len(prompts)} different prompts; {_FEWEST_PROMPTS} are the fewest that "
            "can be told apart and judged by, hundreds are better"
        )
    wanted = max(_FEWEST_HELD_OUT, min(len(prompts) // _HELD_OUT_SHARE, _MOST_HELD_OUT))
    drawn = np.random.default_rng((seed, 0)).permutation(len(prompts))[:wanted]
    held_out = {prompts[place] for place in drawn.tolist()}
    return [pair for pair in pairs if pair.prompt not in held_out], [pair for pair in pairs if pair.prompt in held_out]


def check_held_out(pairs: list[Pair], held_out: list[Pair]) -> None:
    """Refuse to judge by what is trained on, or by next to nothing.

    Raises:
        InputError: says what is wrong with the held-out text.
    """
    if not pairs:
        raise InputError("text: no answers; there is nothing to learn")
    prompts = {pair.prompt for pair in held_out}
    if len(prompts) < _FEWEST_HELD_OUT:
        raise InputError(f"held-out: {len(prompts)} prompts; half of them judge, half are judged by: give more")
    if shared := len({pair.prompt for pair in pairs} & prompts):
        raise InputError(f"held-out: {shared} of its prompts are in the text that is trained on; take other ones")


def until_end(tokens: Sequence[int], stop_ids: Set[int]) -> list[int]:
    """Tokens up to the first that ends an answer, that included."""
    ends = [place for place, token in enumerate(tokens) if token in stop_ids]
    return list(tokens[: ends[0] + 1] if ends else tokens)


class _Message(msgspec.Struct):
    role: str
    content: str


class _Line(msgspec.Struct):
    messages: list[_Message] | None = None
    prompt: str | None = None
    answer: str | None = None


def _lines(path: Path) -> Iterator[tuple[str, _Line]]:
    wanted = 'wanted {"messages": [{"role": "…", "content": "…"}, …]} that ends with the teacher\'s answer'
    for number, text in enumerate(read_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        where = f"{path}:{number}"
        try:
            line = msgspec.json.decode(text, type=_Line)
        except (msgspec.DecodeError, RecursionError) as error:
            raise InputError(f"{where}: {wanted} ({error})") from error
        if not line.messages and (line.prompt is None or line.answer is None):
            raise InputError(f'{where}: {wanted}, or {{"prompt": "…", "answer": "…"}}')
        yield where, line


def _pair(codec: TextCodec, line: _Line, where: str, most: int) -> Pair:
    if line.messages:
        messages = [{"role": message.role, "content": message.content} for message in line.messages]
    else:
        messages = [{"role": "user", "content": line.prompt or ""}, {"role": "assistant", "content": line.answer or ""}]
    if messages[-1]["role"] != "assistant":
        raise InputError(f"{where}: ends with words of {messages[-1]['role'][:40]!r}; wanted the teacher's answer last")
    if not messages[-1]["content"].strip():
        raise InputError(f"{where}: the teacher's answer is empty")
    if codec.template is not None:
        prompt, answer = _in_template(codec, messages, where)
    elif line.messages:
        raise InputError(f'{where}: messages, and the tokenizer has no chat template; give {{"prompt", "answer"}}')
    else:
        prompt, answer = _going_on(codec, messages[0]["content"], messages[1]["content"])
    if not prompt:
        raise InputError(f"{where}: the prompt is empty, and the tokenizer puts nothing before it")
    answer = until_end(answer, codec.stop_ids)[:most]
    return Pair(tuple(prompt), tuple(answer), answer[-1] in codec.stop_ids)


def _in_template(codec: TextCodec, messages: list[dict[str, str]], where: str) -> tuple[list[int], list[int]]:
    opened, whole = codec.render(messages[:-1], answer=True), codec.render(messages, answer=False)
    if not whole.startswith(opened):
        raise InputError(
            f"{where}: the chat template writes the question anew once the answer follows, so that the two cannot be "
            "told apart"
        )
    return codec.encode(opened, special=False), codec.encode(whole[len(opened) :], special=False)


def _going_on(codec: TextCodec, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """As one text where its tokens begin with the prompt's: no space comes between that the text does not have."""
    opening = [] if codec.bos is None else [codec.bos]
    asked, whole = codec.encode(prompt, special=False), codec.encode(prompt + answer, special=False)
    answered = whole[len(asked) :] if whole[: len(asked)] == asked else codec.encode(answer, special=False)
    return [*opening, *asked], [*answered, *sorted(codec.stop_ids)[:1]]

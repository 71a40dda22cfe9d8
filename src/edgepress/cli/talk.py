"""Commands that let a model speak: chat, generate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgepress.cli.app import Engine, Json, Threads, app, print_json
from edgepress.cli.measure import Artifact
from edgepress.errors import InputError
from edgepress.progress import say
from edgepress.runtime.dialogue import Dialogue, open_dialogue
from edgepress.runtime.locate import choose_model

Tokens = Annotated[int, typer.Option("--tokens", min=1, help="At most this many tokens per answer.")]
Context = Annotated[int | None, typer.Option("--context", min=8, help="Tokens of context; default: the model's.")]


@app.command()
def chat(
    artifact: Artifact,
    tokens: Tokens = 256,
    context: Context = None,
    system: Annotated[str | None, typer.Option("--system", help="A system message.")] = None,
    engine: Engine = None,
    threads: Threads = None,
) -> None:
    """Talk to a model in the terminal; greedy. An empty line or Ctrl-D ends."""
    with open_dialogue(choose_model(artifact, engine), context=context, threads=threads) as dialogue:
        messages = [{"role": "system", "content": system}] if system else []
        while question := _ask():
            messages.append({"role": "user", "content": question})
            messages = _within_context(dialogue, messages, tokens)
            answer = _answer_aloud(dialogue, messages, tokens)
            messages.append({"role": "assistant", "content": answer})


@app.command()
def generate(
    artifact: Artifact,
    prompts: Annotated[Path, typer.Option("--prompts", help="Text file, one prompt per line.")],
    tokens: Tokens = 64,
    context: Context = None,
    plain: Annotated[bool, typer.Option("--plain", help="Continue the text, without the chat template.")] = False,
    engine: Engine = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Greedy answers to every prompt of a file."""
    lines = _prompt_lines(prompts)
    answers = []
    with open_dialogue(choose_model(artifact, engine), context=context, threads=threads) as dialogue:
        for line in lines:
            ids = dialogue.codec.encode(line, special=True) if plain else dialogue.codec.chat(_turn(line))
            text = "".join(dialogue.stream(ids, tokens))
            answers.append({"prompt": line, "answer": text})
            if not json:
                print(f"> {line}\n{text}\n")
    if json:
        print_json(answers)


def _within_context(dialogue: Dialogue, messages: list[dict[str, str]], tokens: int) -> list[dict[str, str]]:
    """The conversation without its oldest turns, where the whole of it and an answer do not fit the context."""
    first = 1 if messages[0]["role"] == "system" else 0
    kept, limit = list(messages), dialogue.session.context_limit
    room = limit - min(tokens, limit // 2)
    while len(dialogue.codec.chat(kept)) > room and len(kept) > first + 2:
        del kept[first : first + 2]
    if len(kept) < len(messages):
        say(f"note: the context of {limit} tokens is full; the oldest turns are forgotten")
    return kept


def _turn(line: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": line}]


def _prompt_lines(path: Path) -> list[str]:
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error})") from error
    if not lines:
        raise InputError(f"{path}: no prompts in it; write one per line")
    return lines


def _ask() -> str:
    """The next question; empty at the end of the input."""
    if sys.stdin.isatty():
        print("> ", end="", flush=True)
    line = sys.stdin.buffer.readline()
    try:
        return line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise InputError(f"the question is not UTF-8 text (byte {error.start})") from error


def _answer_aloud(dialogue: Dialogue, messages: list[dict[str, str]], tokens: int) -> str:
    spoken = []
    for piece in dialogue.stream(dialogue.codec.chat(messages), tokens):
        print(piece, end="", flush=True)
        spoken.append(piece)
    print()
    return "".join(spoken)

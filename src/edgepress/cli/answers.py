"""The command that asks a teacher: answers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgepress.cli.app import Engine, Json, Threads, app, print_json
from edgepress.compress.bounds import MOST_SEED
from edgepress.errors import InputError
from edgepress.progress import say

if TYPE_CHECKING:
    from edgepress.benchmarks.answers_record import AnswersRecord

Prompts = Annotated[
    Path, typer.Argument(metavar="PROMPTS", help="Text file, one prompt per line; or JSONL of {prompt} or {messages}.")
]
TeacherName = Annotated[
    str, typer.Option("--teacher", "-t", help="An artifact, a model named like a STUDENT, or http(s)://host:port/v1.")
]
PerPrompt = Annotated[
    int, typer.Option("--per-prompt", min=1, help="Answers to each, of which the most agreed one is kept.")
]
KeyEnv = Annotated[
    str | None, typer.Option("--key-env", help="Name of the variable that holds the endpoint's key.", metavar="NAME")
]
Refuse = Annotated[
    list[str] | None,
    typer.Option("--refuse", metavar="REGEX", help="Drop answers with this in them; may be given more than once."),
]
Repeated = Annotated[
    float, typer.Option("--max-repeated", min=0, max=1, help="Drop answers with more repeated 4-word runs than this.")
]
Near = Annotated[
    float, typer.Option("--near", min=0.01, max=1, help="Drop what shares this much with an earlier one (5-word runs).")
]


@app.command()
def answers(
    prompts: Prompts,
    teacher: TeacherName,
    out: Annotated[Path, typer.Option("--out", "-o", help="The .jsonl to write; .raw and .report beside it.")],
    system: Annotated[str | None, typer.Option("--system", help="A system message, where a prompt has none.")] = None,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="At most this many tokens per answer.")] = 512,
    temperature: Annotated[float, typer.Option("--temperature", min=0, help="Of the sampling; 0 is greedy.")] = 0.0,
    per_prompt: PerPrompt = 1,
    seed: Annotated[int | None, typer.Option("--seed", min=0, max=MOST_SEED, help="Of the sampling.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Of an endpoint's models, this one.")] = None,
    key_env: KeyEnv = None,
    at_once: Annotated[int, typer.Option("--at-once", min=1, max=64, help="Requests to an endpoint at a time.")] = 4,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds that an endpoint may be silent.")] = 300,
    min_chars: Annotated[int, typer.Option("--min-chars", min=1, help="Drop shorter answers.")] = 1,
    max_chars: Annotated[int | None, typer.Option("--max-chars", min=1, help="Drop longer answers.")] = None,
    refuse: Refuse = None,
    max_repeated: Repeated = 0.3,
    near: Near = 0.8,
    context: Annotated[
        int | None, typer.Option("--context", min=8, help="Tokens of a local teacher's context.")
    ] = None,
    engine: Engine = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Ask a teacher that answers in text, and keep what a student can learn from; goes on where it was."""
    from edgepress.compress.distill.answers import Filter
    from edgepress.pipeline.answers import AnswersJob
    from edgepress.pipeline.answers import answers as ask
    from edgepress.pipeline.teacher import TeacherChoice
    from edgepress.runtime.answering import Sampling

    _check_finite(temperature=temperature, timeout=timeout)
    choice = TeacherChoice(
        name=teacher,
        model=model,
        key_env=key_env,
        at_once=at_once,
        timeout_s=timeout,
        engine=engine,
        context=context,
        threads=threads,
    )
    if max_chars is not None and max_chars < min_chars:
        raise InputError(f"--max-chars {max_chars}: less than --min-chars {min_chars}, so that no answer could be kept")
    sifted = Filter(
        min_chars=min_chars, max_chars=max_chars, refuse=tuple(refuse or ()), max_repeated=max_repeated, near=near
    )
    job = AnswersJob(
        prompts=prompts,
        system=system,
        sampling=Sampling(tokens=tokens, temperature=temperature),
        per_prompt=per_prompt,
        seed=seed,
        filter=sifted,
    )
    record = ask(choice, job, out)
    _say_dropped(record)
    if json:
        print_json(record)
    else:
        print(f"answers: {out}  {record.kept} of {record.answers} kept, from {record.teacher}")


def _check_finite(**options: float) -> None:
    for option, value in options.items():
        if not math.isfinite(value):
            raise InputError(f"--{option} {value}: wanted a number")


def _say_dropped(record: AnswersRecord) -> None:
    for reason, count in record.dropped.items():
        lines = ", ".join(map(str, record.dropped_prompts[reason][:10])) + (" …" if count > 10 else "")
        say(f"dropped: {count} {reason.replace('_', ' ')} (line {lines})")

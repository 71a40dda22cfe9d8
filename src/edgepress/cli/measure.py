"""Commands that measure: eval, bench, costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgepress.cli.app import Engine, Json, Threads, app, json_text, print_json
from edgepress.cli.tables import print_bench, print_compare, print_costs, print_quality
from edgepress.errors import InputError
from edgepress.runtime.locate import choose_model

Artifact = Annotated[Path, typer.Argument(metavar="ARTIFACT", help="Output of a run, a .gguf file or an ONNX folder.")]


@app.command(name="eval")
def evaluate(
    artifact: Artifact,
    against: Annotated[str, typer.Option("--against", metavar="STUDENT", help="The uncompressed student.")],
    text: Annotated[list[Path], typer.Option("--text", help="Text to score; may be given more than once.")],
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="Score at most this many tokens of the text.")] = 16384,
    context: Annotated[
        int | None, typer.Option("--context", min=2, help="Tokens per window; default: 512, or the model's context.")
    ] = None,
    engine: Engine = None,
    json: Json = False,
) -> None:
    """Quality of the shipped file in its own engine: KL divergence, agreement, perplexity."""
    from edgepress.compress.student.open import open_student
    from edgepress.pipeline.measure import evaluate_model, text_windows
    from edgepress.pipeline.overlap import check_evaluation_texts

    model = choose_model(artifact, engine)
    student = open_student(against)
    window = context or min(512, student.spec.context)
    windows = text_windows(student, tuple(text), tokens, window)
    check_evaluation_texts(artifact, tuple(text))
    record = evaluate_model(model, student, windows)
    if json:
        print_json(record)
    else:
        print_quality(record)


@app.command()
def bench(
    artifact: Annotated[Path | None, typer.Argument(metavar="ARTIFACT", help="What to measure.")] = None,
    prompt: Annotated[int, typer.Option("--prompt", min=1, help="Tokens of the prompt.")] = 512,
    generate: Annotated[int, typer.Option("--generate", min=1, help="Tokens to generate.")] = 128,
    depth: Annotated[list[int] | None, typer.Option("--depth", min=0, help="Tokens before the prompt.")] = None,
    repetitions: Annotated[int, typer.Option("--repetitions", min=1, help="Timed repetitions, or pairs.")] = 5,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option("--compare", metavar="A B", help="Measure two artifacts in turns.")
    ] = None,
    threads: Threads = None,
    engine: Engine = None,
    json: Json = False,
) -> None:
    """Latency and memory of a file, in a process of its own."""
    from edgepress.benchmarks.compare import run_compare
    from edgepress.benchmarks.latency import run_bench
    from edgepress.benchmarks.records import Scenario

    scenario = Scenario(
        prompt=prompt, generate=generate, depths=tuple(depth or [0]), repetitions=repetitions, threads=threads
    )
    if (artifact is None) == (compare is None):
        raise InputError("give either one ARTIFACT or --compare A B")
    if compare is not None:
        compared = run_compare(choose_model(compare[0], engine), choose_model(compare[1], engine), scenario)
        print_json(compared) if json else print_compare(compared)
        return
    assert artifact is not None
    record = run_bench(choose_model(artifact, engine), scenario)
    print_json(record) if json else print_bench(record)


@app.command()
def costs(
    student: Annotated[str, typer.Argument(metavar="STUDENT", help="A student or a .gguf file with the shapes.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The JSON file to write.")],
    engine: Annotated[str, typer.Option("--engine", help="llama.cpp or onnxruntime.")] = "llama.cpp",
    formats: Annotated[list[str] | None, typer.Option("--formats", help="Only these; default: all that fit.")] = None,
    repetitions: Annotated[int, typer.Option("--repetitions", min=1, help="Samples of each.")] = 11,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """What each format costs on this machine, for a model's shapes; a recipe's target_ms goes by it."""
    from edgepress.artifact.files import write_atomically
    from edgepress.compress.student.open import open_student
    from edgepress.pipeline.costs import measure_student_costs

    record = measure_student_costs(
        open_student(student), engine, tuple(formats or ()), threads=threads, repetitions=repetitions
    )
    write_atomically(out, json_text(record) + "\n")
    print_json(record) if json else print_costs(record)

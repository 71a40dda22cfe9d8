"""The measured process: opens one model, times it, reports, ends. Run as ``python -m edgepress.benchmarks.worker``.

A process of its own, so that load time, page faults and peak memory are the model's alone. In: one
:class:`WorkerRequest` as JSON on stdin. Out: one message per line on stdout, the last a :class:`Result` or a
:class:`Failure`; whatever an engine prints goes to stderr instead.

What a repetition is, for each depth:

    reset · prefill(depth), untimed · [ prefill(prompt) · pick ] · [ decode · pick ] × generate       [ ] = one sample

Picking is the argmax of the logits, which a greedy user waits for too. The token that goes in next is a seeded random
one all the same: every engine then does the same work, and no end-of-text stops it early. Repetitions go round the
depths, so that a drift of the clock falls on all of them. One untimed repetition at the greatest depth comes first: it
pays for page faults of mapped weights, cache allocation and kernel selection.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.benchmarks.process_memory import PeakWatch
from edgepress.benchmarks.records import PeakMemory, Scenario
from edgepress.errors import EdgepressError
from edgepress.runtime.cores import physical_cores
from edgepress.runtime.locate import Engine, ModelFile, open_session
from edgepress.runtime.session import Logits, Session

WARMUP_STEPS = 8
WARMUP = f"one untimed prefill and up to {WARMUP_STEPS} decode steps at the greatest depth"
_FIRST_ID = 256  # byte and special tokens come first in most vocabularies


class WorkerRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure."""

    engine: Engine
    path: str
    scenario: Scenario


class DepthSamples(msgspec.Struct, frozen=True, kw_only=True):
    """Raw times at one depth: one prefill per repetition, ``generate`` steps per repetition."""

    depth: int
    prefill_ns: tuple[int, ...]
    token_ns: tuple[tuple[int, ...], ...]


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """One more repetition, or the warm-up, is done."""


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag="failure"):
    """An error that edgepress raises on purpose, with its exit code."""

    message: str
    exit_code: int


class Result(msgspec.Struct, frozen=True, kw_only=True, tag="result"):
    """The measurement."""

    engine: str
    engine_version: str
    threads: int
    load_ms: float
    memory: PeakMemory
    depths: tuple[DepthSamples, ...]


Message = Progress | Failure | Result


def main() -> int:
    """Serve one request; return the exit code."""
    output = claim_stdout()

    def send(message: Message) -> None:
        output.write(msgspec.json.encode(message) + b"\n")
        output.flush()

    try:
        request = msgspec.json.decode(sys.stdin.buffer.read(), type=WorkerRequest)
        send(serve(request, lambda: send(Progress())))
    except EdgepressError as error:
        send(Failure(message=str(error), exit_code=error.exit_code))
        return error.exit_code
    return 0


def serve(request: WorkerRequest, advance: Callable[[], None]) -> Result:
    """Open the model and measure it; ``advance`` is called after the warm-up and after every repetition."""
    scenario = request.scenario
    threads = scenario.threads or physical_cores()
    context = scenario.context or scenario.tokens_needed
    watch = PeakWatch()
    start = time.perf_counter_ns()
    model = ModelFile(engine=request.engine, path=Path(request.path))
    with open_session(model, context=context, threads=threads) as session:
        load_ms = (time.perf_counter_ns() - start) / 1e6
        watch.look()
        depths = measure(session, scenario, advance, watch.look)
        held = session.memory()
        return Result(
            engine=session.engine,
            engine_version=session.engine_version,
            threads=threads,
            load_ms=load_ms,
            memory=watch.record(held.weights_bytes, held.kv_cache_bytes),
            depths=depths,
        )


def measure(
    session: Session, scenario: Scenario, advance: Callable[[], None], look: Callable[[], None] = lambda: None
) -> tuple[DepthSamples, ...]:
    """Time all repetitions of a scenario. ``look`` is called between the phases, outside the timed parts."""
    tokens = draw_tokens(session.vocab_size, scenario.tokens_needed, scenario.seed)
    time_once(session, tokens, max(scenario.depths), scenario.prompt, min(WARMUP_STEPS, scenario.generate))
    look()
    advance()
    prefills: dict[int, list[int]] = {depth: [] for depth in scenario.depths}
    steps: dict[int, list[tuple[int, ...]]] = {depth: [] for depth in scenario.depths}
    for _ in range(scenario.repetitions):
        for depth in scenario.depths:
            prefill_ns, token_ns = time_once(session, tokens, depth, scenario.prompt, scenario.generate)
            prefills[depth].append(prefill_ns)
            steps[depth].append(token_ns)
            look()
            advance()
    return tuple(
        DepthSamples(depth=depth, prefill_ns=tuple(prefills[depth]), token_ns=tuple(steps[depth]))
        for depth in scenario.depths
    )


def time_once(
    session: Session, tokens: Sequence[int], depth: int, prompt: int, generate: int
) -> tuple[int, tuple[int, ...]]:
    """One repetition: nanoseconds of the prefill and of each decode step, picking included."""
    session.reset()
    if depth:
        session.prefill(tokens[:depth], logits="last")
    prompt_tokens = tokens[depth : depth + prompt]
    prefill_ns = _timed(partial(session.prefill, prompt_tokens, logits="last"))
    following = tokens[depth + prompt : depth + prompt + generate]
    return prefill_ns, tuple(_timed(partial(session.decode, token)) for token in following)


def draw_tokens(vocab: int, count: int, seed: int) -> list[int]:
    """Seeded random token ids, the first of the vocabulary (mostly special tokens) left out."""
    low = _FIRST_ID if vocab > 2 * _FIRST_ID else vocab // 2
    drawn: NDArray[np.int64] = np.random.default_rng(seed).integers(low, vocab, size=count)
    return [int(token) for token in drawn]


def _timed(call: Callable[[], Logits]) -> int:
    start = time.perf_counter_ns()
    int(np.argmax(call()))
    return time.perf_counter_ns() - start


def claim_stdout() -> BinaryIO:
    """Keep stdout for our messages; what engines print to it goes to stderr from now on."""
    sys.stdout.flush()
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return output


if __name__ == "__main__":
    raise SystemExit(main())

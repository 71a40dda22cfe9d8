"""Latency and memory of a model file: runs a scenario in a worker process and makes a record of the raw samples.

Rates: prefill is prompt tokens over the time of one prefill call, decode is generated tokens over the sum of the decode
steps; neither contains the other. Time to first token is the prefill and the picking of the token. All are medians over
repetitions; percentiles of a token's latency are over the steps of all repetitions.
"""

from __future__ import annotations

import statistics as plain
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import msgspec

from edgepress.benchmarks.cautions import machine_cautions, repetition_cautions, stand_in_cautions
from edgepress.benchmarks.launch import run_worker
from edgepress.benchmarks.model_facts import ModelFacts, model_facts
from edgepress.benchmarks.records import BenchRecord, DepthRecord, LlamaBenchRow, Scenario
from edgepress.benchmarks.statistics import percentiles, spread
from edgepress.benchmarks.worker import WARMUP, DepthSamples, Result, WorkerRequest
from edgepress.errors import InputError
from edgepress.progress import progress
from edgepress.runtime.environment import Environment, read_machine, read_state
from edgepress.runtime.locate import ModelFile


def run_bench(model: ModelFile, scenario: Scenario, *, parameters: int | None = None) -> BenchRecord:
    """Measure a model in a process of its own.

    Args:
        model: what to measure.
        scenario: what to do with it.
        parameters: number of weights, where the file does not tell (ONNX).

    Raises:
        InputError: a scenario that makes no sense or does not fit the model's context, or a damaged file.
        EdgepressError: the worker failed; names the signal that killed it.
    """
    facts = model_facts(model)
    facts = msgspec.structs.replace(facts, parameters=facts.parameters or parameters)
    check_scenario(scenario, facts.context, model)
    before, test_time = read_state(), datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    request = WorkerRequest(engine=model.engine, path=str(model.path.absolute()), scenario=scenario)
    with progress(f"bench in {model.engine}", 1 + len(scenario.depths) * scenario.repetitions) as advance:
        result = run_worker(request, advance)
    environment = Environment(machine=read_machine(), before=before, after=read_state())
    shared = shared_columns(model, facts, result, environment, test_time)
    record = make_record(shared, model.file_bytes, scenario, result, environment)
    return msgspec.structs.replace(record, warnings=(*stand_in_cautions(model.stands_in), *record.warnings))


def check_scenario(scenario: Scenario, limit: int, model: ModelFile) -> None:
    """Refuse before anything runs.

    Raises:
        InputError: says which number is wrong, and what fits.
    """
    floors = {"prompt": 1, "generate": 1, "repetitions": 1}
    for name, floor in floors.items():
        if getattr(scenario, name) < floor:
            raise InputError(f"{name} {getattr(scenario, name)} makes no measurement; it must be at least {floor}")
    if not scenario.depths or min(scenario.depths) < 0 or len(set(scenario.depths)) < len(scenario.depths):
        raise InputError(f"depths {list(scenario.depths)} make no sense; give distinct numbers of tokens, 0 or more")
    if scenario.threads is not None and scenario.threads < 1:
        raise InputError(f"threads {scenario.threads} cannot compute; it must be at least 1")
    room = limit if scenario.context is None else min(limit, scenario.context)
    if scenario.tokens_needed > room:
        raise InputError(
            f"depth {max(scenario.depths)} + prompt {scenario.prompt} + generate {scenario.generate} = "
            f"{scenario.tokens_needed} tokens exceed the context of {room} of {model.path}; make them smaller"
        )


def shared_columns(
    model: ModelFile, facts: ModelFacts, result: Result, environment: Environment, test_time: str
) -> dict[str, Any]:
    """The llama-bench columns that all tests of a run have in common."""
    return {
        "build_commit": result.engine_version,
        "cpu_info": environment.machine.cpu or "",
        "model_filename": str(model.path),
        "model_type": facts.description,
        "model_size": facts.weights_bytes,
        "model_n_params": facts.parameters or 0,
        "n_threads": result.threads,
        "test_time": test_time,
        **facts.columns,
    }


def make_record(
    shared: dict[str, Any], file_bytes: int, scenario: Scenario, result: Result, environment: Environment
) -> BenchRecord:
    """Everything derived, from the worker's raw samples."""
    depths = tuple(depth_record(samples, scenario.prompt) for samples in result.depths)
    tests = tuple(row for samples in result.depths for row in llama_bench_rows(shared, samples, scenario.prompt))
    first, decode_row = depths[0], tests[1]
    rates = [scenario.generate * 1e9 / sum(steps) for steps in result.depths[0].token_ns]
    return BenchRecord(
        **{name: getattr(decode_row, name) for name in LlamaBenchRow.__struct_fields__},
        **{name: getattr(first, name) for name in _FIRST_DEPTH},
        engine=result.engine,
        engine_version=result.engine_version,
        load_ms=result.load_ms,
        warmup=WARMUP,
        peak_rss_bytes=result.memory.peak_rss_bytes,
        file_bytes=file_bytes,
        memory=result.memory,
        scenario=scenario,
        environment=environment,
        warnings=tuple(machine_cautions(environment) + repetition_cautions(rates)),
        depths=depths,
        tests=tests,
    )


_FIRST_DEPTH = tuple(name for name in DepthRecord.__struct_fields__ if name in BenchRecord.__struct_fields__)


def depth_record(samples: DepthSamples, prompt: int) -> DepthRecord:
    """Figures of one depth."""
    steps = len(samples.token_ns[0])
    prefill = [prompt * 1e9 / ns for ns in samples.prefill_ns]
    decode = [steps * 1e9 / sum(ns) for ns in samples.token_ns]
    prefill_ms = tuple(ns / 1e6 for ns in samples.prefill_ns)
    token_ms = tuple(tuple(ns / 1e6 for ns in repetition) for repetition in samples.token_ns)
    p50, p90, p99 = percentiles([ms for repetition in token_ms for ms in repetition], (50, 90, 99))
    return DepthRecord(
        depth=samples.depth,
        ttft_ms=plain.median(prefill_ms),
        prefill_tokens_per_s=plain.median(prefill),
        decode_tokens_per_s=plain.median(decode),
        token_ms_p50=p50,
        token_ms_p90=p90,
        token_ms_p99=p99,
        ttft_ms_spread=spread(prefill_ms),
        prefill_tokens_per_s_spread=spread(prefill),
        decode_tokens_per_s_spread=spread(decode),
        samples_prefill_ms=prefill_ms,
        samples_token_ms=token_ms,
    )


def llama_bench_rows(shared: dict[str, Any], samples: DepthSamples, prompt: int) -> tuple[LlamaBenchRow, LlamaBenchRow]:
    """The prompt test and the generation test of one depth, as llama-bench writes them."""
    steps = len(samples.token_ns[0])
    totals = [sum(repetition) for repetition in samples.token_ns]
    reading: dict[str, Any] = {"n_prompt": prompt, "n_gen": 0, "n_depth": samples.depth}
    writing: dict[str, Any] = {"n_prompt": 0, "n_gen": steps, "n_depth": samples.depth + prompt}
    return (
        LlamaBenchRow(**shared, **reading, **_sample_columns(samples.prefill_ns, prompt)),
        LlamaBenchRow(**shared, **writing, **_sample_columns(totals, steps)),
    )


def _sample_columns(samples_ns: Sequence[int], tokens: int) -> dict[str, Any]:
    rates = [tokens * 1e9 / ns for ns in samples_ns]
    several = len(samples_ns) > 1  # llama-bench writes 0 for the deviation of one sample
    return {
        "avg_ns": round(plain.fmean(samples_ns)),
        "stddev_ns": round(plain.stdev(samples_ns)) if several else 0,
        "avg_ts": plain.fmean(rates),
        "stddev_ts": plain.stdev(rates) if several else 0.0,
        "samples_ns": tuple(samples_ns),
        "samples_ts": tuple(rates),
    }

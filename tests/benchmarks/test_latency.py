"""A bench of a real file in its real engine, in a process of its own; no test here looks at a clock."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from checkpoints import write_checkpoint
from standard_graphs import checkpoint, exported
from tiny_models import CONTEXT

from edgepress.benchmarks.compare import run_compare
from edgepress.benchmarks.latency import run_bench
from edgepress.benchmarks.model_facts import model_facts
from edgepress.benchmarks.records import BenchRecord, Scenario
from edgepress.errors import InputError
from edgepress.export.gguf.writer import export_gguf
from edgepress.runtime.locate import ModelFile, choose_model

# The fields of one test in llama-bench's JSON, and the type of each (llama.cpp's tools/llama-bench, 2026-10).
LLAMA_BENCH = """
build_commit:str build_number:int cpu_info:str gpu_info:str backends:str model_filename:str model_type:str
model_size:int model_n_params:int n_batch:int n_ubatch:int n_threads:int cpu_mask:str cpu_strict:bool poll:int
type_k:str type_v:str n_gpu_layers:int n_cpu_moe:int split_mode:str main_gpu:int no_kv_offload:bool flash_attn:int
devices:str tensor_split:str tensor_buft_overrides:str load_mode:str lazy_mode:str embeddings:bool no_op_offload:int
no_host:bool repack:bool fit_target:int fit_min_ctx:int n_prompt:int n_gen:int n_depth:int test_time:str avg_ns:int
stddev_ns:int avg_ts:float stddev_ts:float samples_ns:list samples_ts:list
"""
SCENARIO = Scenario(prompt=12, generate=5, depths=(0, 30), repetitions=3, threads=1)


@pytest.fixture(scope="module")
def checkpoint_dir(llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bench") / "checkpoint"
    write_checkpoint(llama_dir, directory, lambda _: "f32")
    return directory


@pytest.fixture(scope="module")
def gguf(checkpoint_dir: Path) -> ModelFile:
    from edgepress.artifact.checkpoint import Checkpoint

    path = checkpoint_dir.parent / "model.gguf"
    export_gguf(Checkpoint(checkpoint_dir), path)
    return ModelFile(engine="llama.cpp", path=path)


@pytest.fixture(scope="module")
def record(gguf: ModelFile) -> BenchRecord:
    return run_bench(gguf, SCENARIO)


def test_the_document_and_each_of_its_tests_have_llama_benchs_fields(record: BenchRecord) -> None:
    document = json.loads(msgspec.json.encode(record))
    for row in (document, *document["tests"]):
        for field in LLAMA_BENCH.split():
            name, _, kind = field.partition(":")
            assert type(row[name]).__name__ == kind, field
    assert {name for name, _, _ in (field.partition(":") for field in LLAMA_BENCH.split())} == set(document["tests"][0])


def test_there_is_a_prompt_and_a_generation_test_for_every_depth(record: BenchRecord) -> None:
    shapes = [(row.n_prompt, row.n_gen, row.n_depth) for row in record.tests]
    assert shapes == [(12, 0, 0), (0, 5, 12), (12, 0, 30), (0, 5, 42)]
    assert (record.n_prompt, record.n_gen, record.n_depth) == (0, 5, 12)


def test_everything_derived_can_be_recomputed_from_the_raw_samples(record: BenchRecord) -> None:
    for depth, prompt_row, decode_row in zip(record.depths, record.tests[::2], record.tests[1::2], strict=True):
        prefill, steps = np.array(depth.samples_prefill_ms), np.array(depth.samples_token_ms)
        assert (prefill.shape, steps.shape) == ((3,), (3, 5))
        assert depth.ttft_ms == pytest.approx(np.median(prefill))
        assert depth.prefill_tokens_per_s == pytest.approx(np.median(12e3 / prefill))
        assert depth.decode_tokens_per_s == pytest.approx(np.median(5e3 / steps.sum(axis=1)))
        p50, p90, p99 = np.percentile(steps.ravel(), [50, 90, 99])
        assert (depth.token_ms_p50, depth.token_ms_p90, depth.token_ms_p99) == pytest.approx((p50, p90, p99))
        np.testing.assert_allclose(prompt_row.samples_ns, prefill * 1e6)
        np.testing.assert_allclose(decode_row.samples_ns, steps.sum(axis=1) * 1e6)
        assert decode_row.avg_ts == pytest.approx(np.mean(5e3 / steps.sum(axis=1)))
        assert decode_row.stddev_ns == pytest.approx(np.std(steps.sum(axis=1) * 1e6, ddof=1), abs=1)
        assert depth.decode_tokens_per_s_spread.n == 3
    assert record.token_ms_p99 == record.depths[0].token_ms_p99
    assert record.samples_token_ms == record.depths[0].samples_token_ms


def test_the_record_knows_the_file_the_engine_and_the_machine(record: BenchRecord, gguf: ModelFile) -> None:
    assert record.file_bytes == gguf.path.stat().st_size
    assert 0 < record.model_size < record.file_bytes
    assert record.model_type.startswith("llama")
    assert (record.engine, record.n_threads, record.scenario) == ("llama.cpp", 1, SCENARIO)
    assert "llama-cpp-python" in record.engine_version
    assert record.load_ms > 0
    assert record.environment.machine.logical_cores >= 1
    assert record.memory.peak_rss_bytes > record.memory.start_rss_bytes > 0
    assert record.memory.engine_kv_cache_bytes > 0
    assert any("3 repetitions" in warning for warning in record.warnings)
    assert "warm" not in "".join(record.warnings)


def test_one_repetition_has_no_deviation_and_peak_memory_is_the_workers_own(gguf: ModelFile) -> None:
    """This process holds torch and a large array; neither may show in the worker's peak."""
    ballast = np.ones(40_000_000)
    record = run_bench(gguf, Scenario(prompt=4, generate=2, repetitions=1, threads=1))
    assert record.peak_rss_bytes < ballast.nbytes
    assert (record.stddev_ns, record.stddev_ts, record.decode_tokens_per_s_spread.low95) == (0, 0.0, None)


def test_facts_come_from_the_file_alone(gguf: ModelFile, checkpoint_dir: Path) -> None:
    facts, reference = model_facts(gguf), model_facts(ModelFile(engine="torch", path=checkpoint_dir))
    assert facts.context == reference.context == CONTEXT
    assert facts.parameters == reference.parameters


def test_an_onnx_directory_tells_its_context(tmp_path: Path) -> None:
    config = tmp_path / "genai_config.json"
    config.write_text(json.dumps({"model": {"context_length": 99, "type": "llama"}}))
    facts = model_facts(ModelFile(engine="onnxruntime", path=tmp_path))
    assert (facts.context, facts.parameters) == (99, None)
    for damaged in ("", "[]", "{}", '{"model": 3}', '{"model": {"context_length": "many"}}'):
        config.write_text(damaged)
        with pytest.raises(InputError, match=r"genai_config\.json"):
            model_facts(ModelFile(engine="onnxruntime", path=tmp_path))


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        (Scenario(prompt=200, generate=50, depths=(0, 10)), "depth 10 + prompt 200 + generate 50 = 260 tokens.*of 256"),
        (Scenario(prompt=20, generate=5, context=24), "25 tokens exceed the context of 24"),
        (Scenario(prompt=0), "prompt 0"),
        (Scenario(generate=0), "generate 0"),
        (Scenario(repetitions=0), "repetitions 0"),
        (Scenario(depths=()), "depths"),
        (Scenario(depths=(-1,)), "depths"),
        (Scenario(depths=(4, 4)), "depths"),
        (Scenario(threads=0), "threads 0"),
    ],
)
def test_a_scenario_that_cannot_be_is_refused_with_its_numbers(gguf: ModelFile, scenario: Scenario, words: str) -> None:
    with pytest.raises(InputError, match=words.replace("+", r"\+")) as caught:
        run_bench(gguf, scenario)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF then nothing")
    with pytest.raises(InputError, match=r"model\.gguf"):
        run_bench(ModelFile(engine="llama.cpp", path=path), SCENARIO)


def test_comparing_takes_turns_and_keeps_every_record(gguf: ModelFile) -> None:
    result = run_compare(gguf, gguf, Scenario(prompt=6, generate=3, repetitions=2, threads=1))
    runs = [run for pair in zip(result.first_runs, result.second_runs, strict=True) for run in pair]
    starts = [run.environment.before.time for run in runs]
    assert starts == sorted(starts)
    assert len(runs) == 4
    ratio = result.ratios["decode_tokens_per_s"]
    assert ratio.pairs == 2
    assert ratio.samples == pytest.approx(
        [
            runs[1].decode_tokens_per_s / runs[0].decode_tokens_per_s,
            runs[3].decode_tokens_per_s / runs[2].decode_tokens_per_s,
        ]
    )
    assert any("2 pairs" in warning for warning in result.warnings)
    with pytest.raises(InputError, match="context"):
        run_compare(gguf, gguf, Scenario(prompt=CONTEXT))


def test_a_graph_for_tensorrt_on_the_cpu_is_not_taken_for_a_gpu(llama_dir: Path, tmp_path: Path) -> None:
    model = choose_model(exported(checkpoint(llama_dir, tmp_path), tmp_path))
    record = run_bench(model, Scenario(prompt=4, generate=2, repetitions=1, threads=1))
    assert "nothing of this is a GPU's speed" in record.warnings[0]

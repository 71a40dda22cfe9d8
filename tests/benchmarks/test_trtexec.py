"""trtexec's outputs, written here as its documentation and sources have them, old names and new."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import edgepress

from edgepress.benchmarks.trtexec import read_trtexec
from edgepress.errors import InputError

LOG = """[08/01/2025-10:00:00] [I] === Performance summary ===
[08/01/2025-10:00:00] [I] Throughput: 412.5 qps
[08/01/2025-10:00:00] [I] Latency: min = 2.1 ms, max = 3.5 ms, mean = 2.4 ms, median = 2.35 ms, percentile(99%) = 3.2 ms
[08/01/2025-10:00:00] [I] GPU Compute Time: min = 2 ms, max = 3 ms, mean = 2.2 ms, median = 2.25 ms, \
percentile(90%) = 2.5 ms, percentile(99%) = 2.9 ms
&&&& PASSED TensorRT.trtexec [TensorRT v100300] [b30] # /usr/src/tensorrt/bin/trtexec --loadEngine=e \
--shapes=input_ids:1x512,attention_mask:1x512,past_key_values.0.key:1x3x0x64
"""


def iterations(old: bool) -> list[dict[str, float]]:
    names = ("inMs", "computeMs", "outMs", "latencyMs") if old else ("h2dMs", "computeMs", "d2hMs", "latencyMs")
    return [dict(zip(names, (0.1, 2.0 + i / 100, 0.2, 2.3 + i / 100), strict=True)) for i in range(101)]


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("old", [True, False])
def test_times_give_samples_and_their_percentiles(tmp_path: Path, old: bool) -> None:
    (record,) = read_trtexec([write(tmp_path / "prefill.times.json", iterations(old))])
    compute = [2.0 + i / 100 for i in range(101)]
    assert record.samples_compute_ms == tuple(compute)
    assert record.samples_h2d_ms == (0.1,) * 101
    assert record.samples_d2h_ms == (0.2,) * 101
    assert record.compute_ms_p50 == pytest.approx(np.median(compute))
    assert record.compute_ms_p90 == pytest.approx(np.percentile(compute, 90), abs=0.011)
    assert record.latency_ms_p50 == pytest.approx(2.8)


def test_files_of_one_profile_make_one_record(tmp_path: Path) -> None:
    layers = [{"name": "matmul", "timeMs": 80.0, "averageMs": 0.8, "medianMs": 0.8, "percentage": 40.0}]
    files = [
        write(tmp_path / "prefill.times.json", iterations(False)),
        write(tmp_path / "prefill.profile.json", [{"count": 100}, *layers]),
        write(tmp_path / "prefill.log", LOG),
        write(tmp_path / "decode.log", LOG.replace("PASSED", "FAILED")),
    ]
    first, second = read_trtexec(files)
    assert (first.name, first.tensorrt_version, first.passed) == ("prefill", "10.3.0", True)
    assert first.shapes["past_key_values.0.key"] == (1, 3, 0, 64)
    assert first.tokens_per_iteration == 512
    assert first.tokens_per_s == pytest.approx(512 * 1000 / 2.5)
    assert first.throughput_per_s == 412.5
    assert [(layer.name, layer.average_ms) for layer in first.layers] == [("matmul", 0.8)]
    assert second.passed is False
    assert second.compute_ms_p50 == 2.25
    assert second.compute_ms_p99 == 2.9


def test_arrays_are_read_as_trtexec_lays_them_out(tmp_path: Path) -> None:
    rows = "".join(f'{", " if i else "  "}{{ "h2dMs" : 0.1, "computeMs" : {2 + i} }}\n' for i in range(3))
    layers = '[\n  { "count" : 3 }\n, { "name" : "matmul", "averageMs" : 0.8, "percentage" : 40 }\n]\n'
    files = [
        write(tmp_path / "decode.times.json", f"[\n{rows}]\n"),
        write(tmp_path / "decode.profile.json", layers),
    ]
    (record,) = read_trtexec(files)
    assert record.samples_compute_ms == (2.0, 3.0, 4.0)
    assert [layer.name for layer in record.layers] == ["matmul"]


def test_engines_in_several_folders_are_not_mixed(tmp_path: Path) -> None:
    files = []
    for folder, log in (("trtexec-a", LOG), ("trtexec-b", LOG.replace("median = 2.25", "median = 4.5"))):
        (tmp_path / folder).mkdir()
        files.append(write(tmp_path / folder / "decode.log", log))
    records = read_trtexec(files)
    assert [(record.name, record.compute_ms_p50) for record in records] == [
        ("trtexec-a/decode", 2.25),
        ("trtexec-b/decode", 4.5),
    ]


def test_of_several_runs_in_a_log_the_last_one_counts_alone(tmp_path: Path) -> None:
    run = "&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec\n"
    other = LOG.replace("412.5", "7.5").replace("1x512", "1x32")
    (record,) = read_trtexec([write(tmp_path / "a.log", run + LOG + run + other)])
    assert (record.throughput_per_s, record.tokens_per_iteration) == (7.5, 32)
    failed = "&&&& FAILED TensorRT.trtexec [TensorRT v100300] # trtexec --shapes=input_ids:4x128\n"
    file = write(tmp_path / "b.log", run + LOG + run + failed)
    (record,) = read_trtexec([file])
    assert (record.passed, record.compute_ms_p50, record.tokens_per_s) == (False, None, None)
    assert "FAILED" in edgepress("engine", "read", file).out


def test_names_keep_their_dots_and_folders_as_much_as_differs(tmp_path: Path) -> None:
    files = []
    for folder in ("a/e", "b/e"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("run-v1.0", "run-v1.1"):
            files.append(write(tmp_path / folder / f"{name}.times.json", iterations(False)))
    names = [record.name for record in read_trtexec(files)]
    assert names == ["a/e/run-v1.0", "a/e/run-v1.1", "b/e/run-v1.0", "b/e/run-v1.1"]
    again = write(tmp_path / "a" / "e" / "run-v1.0.json", iterations(False))
    with pytest.raises(InputError, match=r"times of run-v1.0 for the second time"):
        read_trtexec([files[0], again])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_what_windows_shells_write_is_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.log").write_bytes(LOG.replace("\n", "\r\n").encode(encoding))
    (record,) = read_trtexec([tmp_path / "a.log"])
    assert (record.tensorrt_version, record.throughput_per_s) == ("10.3.0", 412.5)


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    damaged = LOG.replace("median = 2.25", "median = -").replace("412.5", "..").replace("max = 3 ms", "max = 1.4e ms")
    (record,) = read_trtexec([write(tmp_path / "a.log", damaged)])
    assert (record.compute_ms_p50, record.throughput_per_s) == (None, None)
    assert record.printed["GPU Compute Time"]["mean"] == 2.2


def test_versions_before_ten_have_fewer_digits(tmp_path: Path) -> None:
    (record,) = read_trtexec([write(tmp_path / "a.log", LOG.replace("v100300", "v8502"))])
    assert record.tensorrt_version == "8.5.2"


def test_the_command_prints_a_document(tmp_path: Path) -> None:
    file = write(tmp_path / "decode.times.json", iterations(False))
    assert edgepress("engine", "read", file, "--json").json()[0]["compute_ms_p50"] == pytest.approx(2.5)
    assert "2.500 ms of 101" in edgepress("engine", "read", file).out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hello", "neither times, a profile nor the messages of trtexec"),
        ("[{", "cannot be read as JSON"),
        ([{"latencyMs": 1.0}], "no computeMs in it"),
        ([{"computeMs": "fast"}], "computeMs is 'fast', wanted milliseconds"),
        ([{"computeMs": 1.0}, {"x": 1}], "computeMs is None"),
        ('[{"computeMs": Infinity}]', "computeMs is inf"),
        ('[{"computeMs": 1' + "0" * 400 + "}]", "computeMs is 1000"),
        ('[{"a": ' + "[" * 100_000, "cannot be read as JSON"),
        ("[08/01/2025] [I] another tool", "neither times, a profile nor the messages of trtexec"),
        (LOG.replace("1x512,", "1x\u00b2,"), "cannot be read"),
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path: Path, content: object, message: str) -> None:
    file = write(tmp_path / "x.json", content)
    with pytest.raises(InputError, match=message):
        read_trtexec([file])
    assert message in edgepress("engine", "read", file).error()

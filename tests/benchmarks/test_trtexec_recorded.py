"""What trtexec wrote on Jetson boards, as their owners published it: excerpts, to the letter."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgepress.benchmarks.trtexec import read_trtexec

# Jetson AGX Xavier, TensorRT 8.4: github.com/OE4T/meta-tegra, pull request 952
XAVIER = """\
[03/11/2022-14:57:03] [I] === Performance summary ===
[03/11/2022-14:57:03] [I] Throughput: 41087.7 qps
[03/11/2022-14:57:03] [I] Latency: min = 0.387207 ms, max = 0.447357 ms, mean = 0.402238 ms, median = 0.401947 ms, \
percentile(99%) = 0.420288 ms
[03/11/2022-14:57:03] [I] Enqueue Time: min = 0.0830078 ms, max = 0.229004 ms, mean = 0.090497 ms, \
median = 0.0871582 ms, percentile(99%) = 0.126099 ms
[03/11/2022-14:57:03] [I] GPU Compute Time: min = 0.375977 ms, max = 0.403564 ms, mean = 0.388221 ms, \
median = 0.388443 ms, percentile(99%) = 0.393188 ms
[03/11/2022-14:57:03] [I] Total Host Walltime: 3.00119 s
[03/11/2022-14:57:03] [I] Total GPU Compute Time: 2.99202 s
[03/11/2022-14:57:03] [I]
&&&& PASSED TensorRT.trtexec [TensorRT v8400] # trtexec --loadEngine=mnist16.trt --batch=16
=== PASS:  trtexec ===
"""

# A Jetson with TensorRT 7, ResNet-50 in INT8: github.com/shafikahdarwis/jetson-trtexec
TIMES = """\
[
  { "startEnqMs" : 0.37968, "endEnqMs" : 0.460288, "startInMs" : 0.675893, "endInMs" : 7.54826, \
"startComputeMs" : 0.463232, "endComputeMs" : 7.34538, "startOutMs" : 7.37213, "endOutMs" : 7.41011, \
"inMs" : 0.080608, "computeMs" : 6.88214, "outMs" : 0.0379839, "latencyMs" : 7.00074, "endToEndMs" : 7.03043 }
, { "startEnqMs" : 7.41664, "endEnqMs" : 7.46083, "startInMs" : 7.65972, "endInMs" : 16.3792, \
"startComputeMs" : 7.46272, "endComputeMs" : 16.3316, "startOutMs" : 16.3362, "endOutMs" : 16.3389, \
"inMs" : 0.0441923, "computeMs" : 8.86887, "outMs" : 0.00265694, "latencyMs" : 8.91571, "endToEndMs" : 8.92224 }
]
"""
PROFILE = """\
[
  { "count" : 1013 }
, { "name" : "conv1 + conv1_relu + pool1 input reformatter 0", "timeMs" : 53.3021, "averageMs" : 0.0526181, \
"percentage" : 1.73547 }
, { "name" : "prob", "timeMs" : 11.6949, "averageMs" : 0.0115449, "percentage" : 0.380776 }
]"""
SEVEN = """\
&&&& RUNNING TensorRT.trtexec # /usr/src/tensorrt/bin/trtexec --avgRuns=10 --int8 --batch=1
[02/22/2021-15:14:52] [I] GPU Compute
[02/22/2021-15:14:52] [I] median: 3.03919 ms
&&&& PASSED TensorRT.trtexec # /usr/src/tensorrt/bin/trtexec --avgRuns=10 --int8 --batch=1
"""


def test_the_messages_of_tensorrt_8_on_a_xavier(tmp_path: Path) -> None:
    (tmp_path / "mnist.log").write_text(XAVIER, encoding="utf-8")
    (record,) = read_trtexec([tmp_path / "mnist.log"])
    assert (record.tensorrt_version, record.passed, record.throughput_per_s) == ("8.4.0", True, 41087.7)
    assert record.command == "trtexec --loadEngine=mnist16.trt --batch=16"
    assert (record.compute_ms_p50, record.compute_ms_p90, record.compute_ms_p99) == (0.388443, None, 0.393188)
    assert record.printed["Latency"]["max"] == 0.447357
    assert record.tokens_per_s is None


def test_times_layers_and_the_last_line_of_tensorrt_7(tmp_path: Path) -> None:
    for name, content in (("r.times.json", TIMES), ("r.profile.json", PROFILE), ("r.log", SEVEN)):
        (tmp_path / name).write_text(content, encoding="utf-8")
    (record,) = read_trtexec(sorted(tmp_path.iterdir()))
    assert record.samples_compute_ms == (6.88214, 8.86887)
    assert record.samples_latency_ms == (7.00074, 8.91571)
    assert record.samples_h2d_ms == (0.080608, 0.0441923)
    assert record.samples_d2h_ms == (0.0379839, 0.00265694)
    assert [(layer.name, layer.average_ms) for layer in record.layers][1] == ("prob", 0.0115449)
    assert (record.passed, record.tensorrt_version) == (True, None)
    assert record.command == "/usr/src/tensorrt/bin/trtexec --avgRuns=10 --int8 --batch=1"


@pytest.mark.parametrize(
    ("digits", "shapes", "version", "found"),
    [
        # NVIDIA/TensorRT, issue 4036
        ("100200] [b19", "ref_y:1x128x100x160,c1:1x48x1600x2560", "10.2.0", {"ref_y": (1, 128, 100, 160)}),
        ("8001", "1x3x416x416", "8.0.1", {}),  # ultralytics/yolov5, issue 9076: an input without its name
    ],
)
def test_shapes_of_commands_with_and_without_names(
    digits: str, shapes: str, version: str, found: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    line = f"&&&& PASSED TensorRT.trtexec [TensorRT v{digits}] # trtexec --loadEngine=best.engine --shapes={shapes}\n"
    (tmp_path / "a.log").write_text(line, encoding="utf-8")
    (record,) = read_trtexec([tmp_path / "a.log"])
    assert record.tensorrt_version == version
    assert found.items() <= record.shapes.items()
    assert "" not in record.shapes

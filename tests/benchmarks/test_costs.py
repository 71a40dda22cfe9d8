"""Costs are measured in llama.cpp for every format and shape, and what makes no measurement is refused."""

from __future__ import annotations

import math
import os
import statistics
from pathlib import Path

import msgspec
import pytest
from commands import edgepress, edgepress_process
from tiny_models import make_model_dir

from edgepress.artifact.formats import formats_for, get_format
from edgepress.benchmarks.cost_records import CostsRecord
from edgepress.pipeline.costs import read_costs

pytest.importorskip("llama_cpp")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 256 and 128 values: K types fit some matrices and not others."""
    return make_model_dir("llama", tmp_path_factory.mktemp("costs") / "student", hidden_size=256)


@pytest.fixture(scope="module")
def record(student: Path, tmp_path_factory: pytest.TempPathFactory) -> CostsRecord:
    path = tmp_path_factory.mktemp("record") / "costs.json"
    done = edgepress("costs", student, "--threads", "1", "--repetitions", "3", "-o", path, "--json")
    assert done.json() == msgspec.json.decode(path.read_bytes())
    return read_costs(path)


def test_every_shape_has_a_cost_in_every_format_that_fits(record: CostsRecord) -> None:
    counts = {(shape.rows, shape.columns): shape.count for shape in record.shapes}
    # The embedding as head; q and o; k, v, gate and up; down.
    assert counts == {(320, 256): 1, (256, 256): 4, (128, 256): 8, (256, 128): 2}
    found = {(cost.rows, cost.columns, cost.format) for cost in record.costs}
    ggml = {"f32", "f16", "q8_0", "q5_0", "q5_1", "q4_0", "q4_1", "iq4_nl", "q4_K", "q5_K", "q6_K", "q3_K", "iq4_xs"}
    assert found == {
        (rows, columns, format) for rows, columns in counts for format in formats_for(columns) if format in ggml
    }
    for cost in record.costs:
        assert math.isfinite(cost.decode_ms) and cost.decode_ms > 0
        assert cost.decode_ms == statistics.median(cost.samples_decode_ms)
        assert len(cost.samples_decode_ms) == 3
        assert cost.bytes == cost.rows * cost.columns * get_format(cost.format).bits_per_value / 8
        head = cost.rows == 320
        assert (cost.prefill_ms is None) == head == (not cost.samples_prefill_ms)
        assert head or (cost.prefill_ms is not None and math.isfinite(cost.prefill_ms) and cost.prefill_ms > 0)


def test_as_many_copies_are_gone_through_as_the_model_has_weights(record: CostsRecord) -> None:
    """The whole model is smaller than a cache here, so that it would stay in one in use as well."""
    assert record.cache_bytes is None or record.cache_bytes > 4 << 20
    for cost in record.costs:
        fitting = [shape for shape in record.shapes if get_format(cost.format).fits(shape.columns)]
        values = sum(shape.count * shape.rows * shape.columns for shape in fitting)
        assert cost.copies == math.ceil(values / (cost.rows * cost.columns))


def test_no_torch_is_needed(student: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch on a board')", encoding="utf-8")
    (tmp_path / "transformers.py").write_text("raise ImportError('no transformers on a board')", encoding="utf-8")
    out = tmp_path / "costs.json"
    arguments = ("costs", student, "--formats", "q4_0", "--repetitions", "1", "--threads", "1", "-o", out)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = edgepress_process(*arguments, PYTHONPATH=path)
    assert done.code == 0, done.err
    assert {cost.format for cost in read_costs(out).costs} == {"q4_0"}


def test_onnx_runtime_has_a_cost_for_its_own_formats(student: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    done = edgepress(
        "costs", student, "--engine", "onnxruntime", "--threads", "1", "--repetitions", "1", "-o", tmp_path / "c.json"
    )
    assert done.code == 0, done.err
    record = read_costs(tmp_path / "c.json")
    assert record.engine == "onnxruntime"
    assert {"f32", "f16", "q4_0", "q4_1", "q8_0", "q6_K", "int8", "trt_int4_64"} <= {
        cost.format for cost in record.costs
    }
    for cost in record.costs:
        assert math.isfinite(cost.decode_ms) and cost.decode_ms > 0
        assert cost.prefill_ms is None or (math.isfinite(cost.prefill_ms) and cost.prefill_ms > 0)


def test_onnx_runtime_is_not_asked_for_rows_that_it_does_not_hold(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    odd = make_model_dir("llama", tmp_path / "odd", intermediate_size=100)
    arguments = ("--engine", "onnxruntime", "--threads", "1", "--repetitions", "1", "-o", tmp_path / "c.json")
    done = edgepress("costs", odd, *arguments)
    assert done.code == 0, done.err
    assert {cost.format for cost in read_costs(tmp_path / "c.json").costs if cost.columns == 100} == {"f32", "f16"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--formats", "q3"], "unknown format 'q3'"),
        (["--formats", "int8"], "llama.cpp has no format int8"),
        (["--engine", "tflite"], "unknown engine 'tflite'"),
    ],
)
def test_what_cannot_be_measured_is_one_line(student: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = edgepress("costs", student, "-o", tmp_path / "c.json", *arguments)
    assert message in done.error()
    assert not (tmp_path / "c.json").exists()


def test_a_format_that_fits_no_matrix_is_refused(tmp_path: Path) -> None:
    student = make_model_dir("llama", tmp_path / "student")
    done = edgepress("costs", student, "-o", tmp_path / "c.json", "--formats", "q4_K")
    assert "q4_K fits no matrix: rows have 64, 128 values and its blocks 256" in done.error()

"""E4M3 is torch's and ONNX Runtime's, byte by byte."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgepress.artifact.float8 import E4M3_LEVELS, LARGEST, SMALLEST_GAP, e4m3_bytes, e4m3_codes, nearest_e4m3
from edgepress.artifact.formats import get_format

ALL = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()


def test_every_byte_stands_for_the_value_that_torch_reads() -> None:
    stored = np.arange(256, dtype=np.uint8)
    codes = e4m3_codes(stored)
    finite = np.isfinite(ALL)
    assert (codes[~finite] == 255).all() and finite.sum() == 254
    np.testing.assert_array_equal(get_format("fp8").level_array()[codes[finite]], ALL[finite])


def test_levels_ascend_and_come_back_from_their_bytes() -> None:
    levels = np.array(E4M3_LEVELS)
    assert len(levels) == 253 and np.diff(levels).min() == SMALLEST_GAP and levels[-1] == LARGEST == -levels[0]
    codes = np.arange(253, dtype=np.uint8)
    np.testing.assert_array_equal(e4m3_codes(e4m3_bytes(codes)), codes)
    np.testing.assert_array_equal(ALL[e4m3_bytes(codes)], levels)


@pytest.mark.parametrize("spread", [1e-3, 0.1, 10.0, 300.0])
def test_the_nearest_value_is_torchs(spread: float) -> None:
    values = np.random.default_rng(0).standard_normal(20_000).astype(np.float32) * np.float32(spread)
    levels = np.array(E4M3_LEVELS, np.float32)
    values = np.concatenate([values, (levels[1:] + levels[:-1]) / 2, levels, np.array([0, 500, -1e9], np.float32)])
    clipped = torch.from_numpy(values).clamp(-LARGEST, LARGEST)
    np.testing.assert_array_equal(nearest_e4m3(values), clipped.to(torch.float8_e4m3fn).double().numpy())


def test_onnx_runtime_rounds_inputs_to_the_same_values() -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    scale, make = 0.013, onnx.helper
    nodes = [
        make.make_node("QuantizeLinear", ["x", "scale", "zero"], ["levels"]),
        make.make_node("DequantizeLinear", ["levels", "scale", "zero"], ["y"]),
    ]
    values = [make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None]) for name in "xy"]
    constants = [
        make.make_tensor("scale", onnx.TensorProto.FLOAT, [], [scale]),
        make.make_tensor("zero", onnx.TensorProto.FLOAT8E4M3FN, [], b"\0", raw=True),
    ]
    graph = make.make_graph(nodes, "rounding", values[:1], values[1:], constants)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = (np.random.default_rng(3).standard_normal(20_000) * np.geomspace(1e-4, 9, 20_000)).astype(np.float32)
    found = session.run(None, {"x": inputs})[0]
    np.testing.assert_allclose(found, nearest_e4m3(inputs / np.float32(scale)) * scale, rtol=1e-6)

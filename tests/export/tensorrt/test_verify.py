"""Reading back finds every byte of a graph for TensorRT that is not what the checkpoint says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from standard_graphs import checkpoint, exported
from tiny_models import make_model_dir

from edgepress.artifact.activations import write_activations
from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.plan import ActivationFormat
from edgepress.errors import ParityError
from edgepress.export.onnx.int4 import pack_int4, unpack_int4
from edgepress.export.tensorrt.verify import verify_tensorrt

KINDS: list[dict[str, Any]] = [
    {"body": "f16"},
    {"body": "f32", "head": "f32"},
    {"body": "int8", "head": "int8"},
    {"body": "int8", "rounds": True},
    {"body": "fp8", "head": "fp8"},
    {"body": "fp8", "rounds": True},
    {"body": "trt_int4_64", "head": "trt_int4_64"},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_one_flipped_bit_in_any_initializer_is_found(kind: dict[str, Any], tmp_path: Path) -> None:
    model = make_model_dir("qwen2", tmp_path / "model", num_hidden_layers=1)
    source = checkpoint(model, tmp_path, **kind)
    directory = exported(source, tmp_path)
    verify_tensorrt(directory, source)
    data = directory / "model.onnx.data"
    original, random = data.read_bytes(), np.random.default_rng(0)
    for tensor in onnx.load(str(directory / "model.onnx"), load_external_data=False).graph.initializer:
        place = {entry.key: int(entry.value) for entry in tensor.external_data if entry.key != "location"}
        if not place:
            continue
        damaged = bytearray(original)
        damaged[place["offset"] + int(random.integers(place["length"]))] ^= 1 << int(random.integers(8))
        data.write_bytes(damaged)
        with pytest.raises(ParityError):
            verify_tensorrt(directory, source)


@pytest.mark.parametrize("format", ["int8", "fp8"])
def test_another_scale_of_the_input_is_found(format: ActivationFormat, llama_dir: Path, tmp_path: Path) -> None:
    source = checkpoint(llama_dir, tmp_path, format, rounds=True)
    directory = exported(source, tmp_path)
    verify_tensorrt(directory, source)
    down = "model.layers.1.mlp.down_proj.weight"
    write_activations(source.directory, source.activation_scales | {down: 0.5}, format)
    with pytest.raises(ParityError, match=r"1\.mlp\.down_proj\.weight: .* rounds its input by another scale"):
        verify_tensorrt(directory, Checkpoint(source.directory))


def test_blocks_along_another_axis_are_found(llama_dir: Path, tmp_path: Path) -> None:
    source = checkpoint(llama_dir, tmp_path, "trt_int4_64")
    directory = exported(source, tmp_path)
    model = onnx.load(str(directory / "model.onnx"), load_external_data=False)
    node = next(node for node in model.graph.node if node.op_type == "DequantizeLinear")
    next(attribute for attribute in node.attribute if attribute.name == "axis").i = 1
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ParityError):
        verify_tensorrt(directory, source)


def test_int4_values_are_those_that_onnx_reads() -> None:
    levels = np.random.default_rng(0).integers(-8, 8, (6, 5)).astype(np.int8)
    codes = (levels + 8).astype(np.uint8)
    packed = pack_int4(codes)
    tensor = onnx.helper.make_tensor("x", onnx.TensorProto.INT4, levels.shape, packed.tobytes(), raw=True)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor).astype(np.int8), levels)
    np.testing.assert_array_equal(unpack_int4(packed, codes.shape), codes)
    assert unpack_int4(pack_int4(codes[:1]), (1, 5)).tolist() == codes[:1].tolist()

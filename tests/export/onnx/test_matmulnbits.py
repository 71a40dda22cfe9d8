"""The packing is right when ONNX Runtime's own kernels make of it the values that the quantizer meant."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from checkpoints import store
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

from edgepress.artifact.formats import FORMATS
from edgepress.artifact.quantized import QuantizedTensor
from edgepress.errors import InputError
from edgepress.export.onnx.matmulnbits import (
    PackedTensor,
    dequantize,
    grid,
    held_formats,
    pack,
    pack_codes,
    pack_zero_points,
    unpack,
    unpack_codes,
    unpack_zero_points,
)

Array = NDArray[Any]
ROWS, COLUMNS = 24, 512
EXACT = [name for name in held_formats() if not FORMATS[name].has_min]
AFFINE = [name for name in held_formats() if FORMATS[name].has_min]


def quantized(format: str, seed: int = 0) -> QuantizedTensor:
    values = np.random.default_rng(seed).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    tensor = store(values, format)
    assert isinstance(tensor, QuantizedTensor)
    return tensor


def run(op: str, inputs: dict[str, Array], constants: dict[str, Array | None], **attributes: int) -> Array:
    """One operator of com.microsoft in ONNX Runtime; a constant of None is left out."""
    names = [name if value is not None else "" for name, value in constants.items()]
    order = {"GatherBlockQuantized": [names[0], *inputs, *names[1:]]}.get(op, [*inputs, *names])
    node = helper.make_node(op, order, ["y"], domain="com.microsoft", **attributes)
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items() if value is not None]
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in inputs.items()
    ]
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(
        helper.make_graph([node], "one", values, [output], tensors), opset_imports=opsets, ir_version=10
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0])


def product(packed: PackedTensor, bits: int, block: int, x: Array, zeros: Array | None = None, level: int = 0) -> Array:
    constants: dict[str, Array | None] = {
        "codes": packed.codes,
        "scales": packed.scales,
        "zeros": zeros,
    }
    sizes = {"K": x.shape[1], "N": len(packed.codes), "bits": bits, "block_size": block}
    return run("MatMulNBits", {"x": x}, constants, accuracy_level=level, **sizes)


@pytest.mark.parametrize("format", EXACT)
def test_the_engine_multiplies_by_the_values_that_were_quantized(format: str) -> None:
    tensor, layout = quantized(format), grid(format)
    x = np.random.default_rng(1).standard_normal((3, COLUMNS)).astype(np.float32)
    expected = x.astype(np.float64) @ tensor.dequantize().astype(np.float64).T
    found = product(pack(tensor), layout.bits, layout.block, x)
    assert np.abs(found - expected).max() < 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize("format", AFFINE)
def test_offsets_times_block_sums_complete_the_formats_with_a_minimum(format: str) -> None:
    tensor, layout, packed = quantized(format), grid(format), pack(quantized(format))
    x = np.random.default_rng(1).standard_normal((3, COLUMNS)).astype(np.float32)
    expected = x.astype(np.float64) @ tensor.dequantize().astype(np.float64).T
    assert packed.offsets is not None
    sums = x.astype(np.float64).reshape(3, -1, layout.block).sum(axis=2)
    found = product(packed, layout.bits, layout.block, x) + sums @ packed.offsets.astype(np.float64).T
    assert np.abs(found - expected).max() < 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize("format", EXACT)
def test_the_engine_looks_up_exactly_the_dequantized_rows(format: str) -> None:
    tensor, layout, packed = quantized(format), grid(format), pack(quantized(format))
    ids = np.array([[3, 0, 23], [7, 7, 1]], dtype=np.int64)
    constants: dict[str, Array | None] = {
        "codes": packed.codes.reshape(ROWS, -1),
        "scales": packed.scales,
    }
    axes = {"gather_axis": 0, "quantize_axis": 1, "bits": layout.bits, "block_size": layout.block}
    found = run("GatherBlockQuantized", {"ids": ids}, constants, **axes)
    np.testing.assert_array_equal(found, tensor.dequantize()[ids])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("blocks", [4, 5])
def test_packed_zero_points_are_those_that_the_engine_subtracts(bits: int, blocks: int) -> None:
    random, block = np.random.default_rng(bits), 32
    codes = random.integers(0, 2**bits, (ROWS, blocks * block)).astype(np.uint8)
    zeros = random.integers(0, 2**bits, (ROWS, blocks)).astype(np.uint8)
    scales = random.uniform(0.01, 0.02, (ROWS, blocks)).astype(np.float32)
    weight = (codes.reshape(ROWS, blocks, block) - zeros[..., None].astype(np.float64)) * scales[..., None]
    x = random.standard_normal((2, blocks * block)).astype(np.float32)
    expected = x.astype(np.float64) @ weight.reshape(ROWS, -1).T
    packed = PackedTensor(codes=pack_codes(codes, bits, block), scales=scales)
    found = product(packed, bits, block, x, zeros=pack_zero_points(zeros, bits))
    assert np.abs(found - expected).max() < 2e-6 * np.abs(expected).max()
    np.testing.assert_array_equal(unpack_zero_points(pack_zero_points(zeros, bits), bits, blocks), zeros)


@pytest.mark.parametrize("format", held_formats())
def test_unpacking_gives_the_integers_back(format: str) -> None:
    tensor = quantized(format)
    np.testing.assert_array_equal(unpack(pack(tensor), format), tensor.codes)


@pytest.mark.parametrize("format", EXACT)
def test_packed_values_equal_the_dequantized_ones_to_the_bit(format: str) -> None:
    tensor = quantized(format)
    np.testing.assert_array_equal(dequantize(pack(tensor), grid(format).bits), tensor.dequantize())


@pytest.mark.parametrize("format", AFFINE)
def test_packed_values_with_a_minimum_differ_by_rounding_alone(format: str) -> None:
    tensor = quantized(format)
    found = dequantize(pack(tensor), grid(format).bits)
    assert np.abs(found - tensor.dequantize()).max() <= 4 * np.finfo(np.float32).eps * np.abs(found).max()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(1, 7), st.sampled_from([4, 8]), st.sampled_from([16, 32]), st.integers(0, 99))
def test_codes_of_any_shape_survive_the_packing(rows: int, blocks: int, bits: int, block: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**bits, (rows, blocks * block)).astype(np.uint8)
    packed = pack_codes(codes, bits, block)
    assert packed.shape == (rows, blocks, block * bits // 8)
    np.testing.assert_array_equal(unpack_codes(packed, bits), codes)


def test_int8_activations_cost_less_than_one_per_cent() -> None:
    tensor, layout = quantized("q4_0"), grid("q4_0")
    x = np.random.default_rng(1).standard_normal((3, COLUMNS)).astype(np.float32)
    expected = x.astype(np.float64) @ tensor.dequantize().astype(np.float64).T
    found = product(pack(tensor), layout.bits, layout.block, x, level=4)
    assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()


def test_a_format_that_cannot_be_held_is_refused_with_those_that_can() -> None:
    with pytest.raises(InputError, match=r"cannot hold f16; it holds .*q8_0.*q4_0"):
        grid("f16")


def test_a_code_without_a_level_is_not_unpacked() -> None:
    packed = pack(quantized("iq4_nl"))
    packed.codes[0, 0, 0] = 0  # level -128 is not in the table
    with pytest.raises(ValueError, match="no level of iq4_nl"):
        unpack(packed, "iq4_nl")

"""QuantizedTensor: rows are independent of each other, in every format.

That ``dequantize`` is the reference decoder's to the bit is shown beside the packing, in tests/export/gguf.
"""

from __future__ import annotations

import numpy as np
import pytest
from ggml_oracle import FORMATS, ggml_dequantize, ggml_quantize
from numpy.typing import NDArray

from edgepress.artifact.quantized import QuantizedTensor, concatenate_rows
from edgepress.export.gguf.blocks import pack, unpack

ROWS, COLUMNS = 7, 512


@pytest.fixture(params=FORMATS)
def tensor(request: pytest.FixtureRequest) -> QuantizedTensor:
    weight = np.random.default_rng(3).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    return unpack(request.param, ggml_quantize(request.param, weight), COLUMNS)


def reference(tensor: QuantizedTensor) -> NDArray[np.float32]:
    """The values by the decoder of the gguf package."""
    return ggml_dequantize(tensor.format, pack(tensor))


@pytest.mark.parametrize("index", [slice(2, 5), slice(None, None, -1), np.array([6, 0, 0, 3]), slice(0, 0)], ids=str)
def test_chosen_rows_are_the_decoders_rows(tensor: QuantizedTensor, index: slice | NDArray[np.intp]) -> None:
    chosen = tensor.rows(index)
    wanted = reference(tensor)[index]
    assert chosen.shape == wanted.shape
    np.testing.assert_array_equal(chosen.dequantize(), wanted)
    if len(wanted):
        np.testing.assert_array_equal(reference(chosen), wanted)


def test_stacked_parts_are_the_whole(tensor: QuantizedTensor) -> None:
    whole = concatenate_rows([tensor.rows(slice(0, 3)), tensor.rows(slice(3, 4)), tensor.rows(slice(4, None))])
    assert whole.format == tensor.format
    for name, part in tensor.parts().items():
        np.testing.assert_array_equal(whole.parts()[name], part)


def test_a_value_is_its_level_times_the_step_plus_the_offset(tensor: QuantizedTensor) -> None:
    """In float64 from the parts, as the table of formats describes it."""
    size = tensor.block_size
    levels = np.asarray(tensor.spec.levels, np.float64)[tensor.codes].reshape(ROWS, -1, size)
    values = levels * tensor.step().astype(np.float64)[..., None]
    offset = tensor.offset()
    assert (offset is not None) == tensor.spec.has_min
    if offset is not None:
        values += offset.astype(np.float64)[..., None]
    np.testing.assert_allclose(tensor.dequantize(), values.reshape(ROWS, COLUMNS), rtol=1e-6, atol=1e-6)


def test_the_parts_have_the_documented_shapes_and_types(tensor: QuantizedTensor) -> None:
    spec, parts = tensor.spec, tensor.parts()
    fine, coarse = (ROWS, COLUMNS // spec.sub_block), (ROWS, COLUMNS // spec.block)
    assert parts["codes"].shape == (ROWS, COLUMNS)
    assert parts["codes"].dtype == np.uint8
    assert ("mins" in parts) == spec.has_min
    for name in ("scales", "mins"):
        if name in parts:
            assert parts[name].shape == fine
            assert (parts[name].dtype == np.float16) == (spec.kind == "block")
    for name in ("super_scales", "super_mins"):
        assert (name in parts) == (spec.kind == "super" and (name == "super_scales" or spec.has_min))
        if name in parts:
            assert parts[name].shape == coarse
            assert parts[name].dtype == np.float16

"""Rounding to nearest writes what ggml writes."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from ggml_oracle import ggml_dequantize, ggml_quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgepress.compress.quantize.nearest import quantize_nearest
from edgepress.errors import InputError
from edgepress.export.gguf.blocks import pack

EXACT = ("q8_0", "q5_0", "q5_1", "q4_0", "q4_1")
FORMATS = (*EXACT, "iq4_nl")


def weights(seed: int, rows: int = 64, columns: int = 96) -> NDArray[np.float32]:
    """Gaussian, heavy-tailed, one-sided and empty rows."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, columns)) * 10.0 ** rng.uniform(-3, 1, (rows, 1))
    values[1::4] = rng.standard_t(3, (len(values[1::4]), columns))
    values[2::8] = np.abs(values[2::8])
    values[3] = 0
    values[4, :32] = 0.25
    return values.astype(np.float32)


@pytest.mark.parametrize("format", EXACT)
def test_bytes_are_those_of_ggml(format: str) -> None:
    weight = weights(0)
    assert np.array_equal(pack(quantize_nearest(weight, format)), ggml_quantize(format, weight))


def test_iq4_nl_agrees_with_ggml_but_for_ties_in_float32_sums() -> None:
    weight = weights(1)
    ours, theirs = (
        quantize_nearest(weight, "iq4_nl").dequantize(),
        ggml_dequantize("iq4_nl", ggml_quantize("iq4_nl", weight)),
    )
    assert (ours == theirs).mean() > 0.99
    error, expected = (float(((values - weight).astype(np.float64) ** 2).sum()) for values in (ours, theirs))
    assert error == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("format", FORMATS)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_the_reference_decoder_reads_the_same_values(format: str, seed: int) -> None:
    tensor = quantize_nearest(weights(seed, rows=6), format)
    kind = gguf.GGMLQuantizationType[format.upper()]
    assert np.array_equal(gguf.quants.dequantize(pack(tensor), kind), tensor.dequantize())


@pytest.mark.parametrize("format", EXACT)
def test_rounding_values_that_lie_on_the_grid_changes_nothing(format: str) -> None:
    tensor = quantize_nearest(weights(2), format)
    again = quantize_nearest(tensor.dequantize(), format)
    # The fp16 scale is found again wherever the block uses both ends of its grid.
    unchanged = (again.dequantize() == tensor.dequantize()).reshape(-1, 32).all(axis=1)
    assert unchanged.mean() > 0.6
    first = np.abs(tensor.dequantize() - weights(2)).sum()
    assert np.abs(again.dequantize() - tensor.dequantize()).sum() < 0.1 * first


def test_a_scale_beyond_fp16_is_refused_with_its_size() -> None:
    weight = np.full((1, 32), 1e7, np.float32)
    with pytest.raises(InputError, match=r"scale of 1\.25e\+06 exceeds fp16"):
        quantize_nearest(weight, "q4_0")

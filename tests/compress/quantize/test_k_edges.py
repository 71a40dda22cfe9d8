"""What the K-type solvers do with weights and importances at the edges of what the formats can hold."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from grid_oracle import distance_to_nearest_level
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from edgepress.artifact.quantized import QuantizedTensor
from edgepress.compress.quantize.k_affine import quantize_k_affine
from edgepress.compress.quantize.k_symmetric import quantize_k_symmetric
from edgepress.errors import InputError

Floats = NDArray[np.float32]

FORMATS = ("q4_K", "q5_K", "q6_K", "q3_K", "iq4_xs")
SIGNED = ("q6_K", "q3_K", "iq4_xs")

each_solver = pytest.mark.parametrize("search", [False, True], ids=["nearest", "search"])
each_format = pytest.mark.parametrize("format", FORMATS)


def solve(format: str, weight: Floats, importance: Floats | None, search: bool) -> QuantizedTensor:
    routine = quantize_k_symmetric if format in SIGNED else quantize_k_affine
    return routine(weight, format, importance, search=search)


def gaussian(rows: int, columns: int) -> Floats:
    return np.random.default_rng(3).standard_normal((rows, columns)).astype(np.float32)


@each_format
@each_solver
def test_parts_have_the_shapes_and_ranges_of_the_format(format: str, search: bool) -> None:
    found = solve(format, gaussian(3, 512), None, search)
    lanes = 512 // found.block_size
    assert found.codes.shape == (3, 512) and found.codes.dtype == np.uint8
    assert found.codes.max() < len(found.spec.levels)
    assert found.scales.shape == (3, lanes) and found.scales.dtype == (np.int8 if format in SIGNED else np.uint8)
    assert found.super_scales is not None and found.super_scales.shape == (3, 2)
    assert found.super_scales.dtype == np.float16
    if format in SIGNED:
        assert found.mins is None and found.super_mins is None
    else:
        assert found.mins is not None and found.mins.shape == (3, lanes) and found.mins.dtype == np.uint8
        assert max(found.mins.max(), found.scales.astype(np.uint8).max()) <= 63
        assert found.super_mins is not None and found.super_mins.dtype == np.float16


@each_format
@each_solver
def test_zero_rows_stay_zero(format: str, search: bool) -> None:
    weight = gaussian(3, 512)
    weight[1] = 0
    decoded = solve(format, weight, None, search).dequantize()
    assert np.all(decoded[1] == 0)
    assert np.all(np.abs(decoded[[0, 2]]).max(axis=1) > 1)


@each_format
@each_solver
@pytest.mark.parametrize("value", [0.37, -0.37, 3e-5, 1e4])
def test_constant_rows_come_back_to_within_a_percent(format: str, search: bool, value: float) -> None:
    decoded = solve(format, np.full((2, 256), value, np.float32), None, search).dequantize()
    # The smallest positive fp16 times one is the finest step there is.
    np.testing.assert_allclose(decoded, value, rtol=0.01, atol=0 if search or value > 1e-3 else abs(value))


@each_format
@each_solver
@pytest.mark.parametrize("value", [1e-38, 1e-42])
def test_values_below_fp16s_range_become_zero(format: str, search: bool, value: float) -> None:
    decoded = solve(format, gaussian(2, 256) * np.float32(value), None, search).dequantize()
    assert np.all(decoded == 0)


@each_format
def test_the_search_uses_fp16s_subnormal_scales(format: str) -> None:
    weight = gaussian(4, 256) * np.float32(1e-6)
    decoded = solve(format, weight, None, search=True).dequantize()
    bound = {"q3_K": 0.03, "iq4_xs": 0.05}.get(format, 0.01)  # iq4_xs: the finest step times its spacing is 0.7e-6
    assert np.sum((decoded - weight) ** 2.0) < bound * np.sum(weight**2.0)


@each_format
@each_solver
@pytest.mark.parametrize("value", [3e8, 3e38])
def test_weights_beyond_fp16s_range_are_refused_with_the_scale(format: str, search: bool, value: float) -> None:
    weight = gaussian(2, 256)
    weight[1, 7] = value
    with pytest.raises(InputError, match=r"[\d.]+e\+\d+ exceeds fp16's 65504"):
        solve(format, weight, None, search)


@each_format
@each_solver
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(format: str, search: bool, value: float) -> None:
    weight = gaussian(2, 256)
    weight[1, 7] = value
    with pytest.raises(InputError, match="NaN or infinity"):
        solve(format, weight, None, search)


@each_format
def test_an_importance_that_is_not_finite_is_refused(format: str) -> None:
    importance = np.ones(256, np.float32)
    importance[3] = np.inf
    with pytest.raises(InputError, match="importance"):
        solve(format, gaussian(1, 256), importance, search=True)


@each_format
def test_inputs_that_never_fired_still_get_sensible_codes(format: str) -> None:
    weight = gaussian(8, 512)
    importance = np.ones(512, np.float32)
    importance[:256] = 0
    decoded = solve(format, weight, importance, search=True).dequantize()
    silent, active = np.mean((decoded - weight).reshape(8, 2, 256) ** 2.0, axis=(0, 2))
    assert silent == pytest.approx(active, rel=0.15)
    unweighted = solve(format, weight, np.zeros(512, np.float32), search=True).dequantize()
    np.testing.assert_array_equal(unweighted, solve(format, weight, None, search=True).dequantize())


@each_format
@each_solver
def test_rows_are_independent_of_their_neighbours(format: str, search: bool) -> None:
    weight = gaussian(150, 768)  # more than one tile
    importance = np.abs(weight[0]) + np.float32(0.1)
    whole = solve(format, weight, importance, search).dequantize()
    for rows in (slice(0, 1), slice(80, 93), slice(149, 150)):
        np.testing.assert_array_equal(solve(format, weight[rows], importance, search).dequantize(), whole[rows])


@each_format
@each_solver
def test_the_callers_weights_are_left_alone(format: str, search: bool) -> None:
    weight = gaussian(2, 256)
    kept = weight.copy()
    weight.setflags(write=False)
    solve(format, weight, None, search)
    np.testing.assert_array_equal(weight, kept)


@pytest.mark.parametrize("format", ["q4_K", "q6_K", "q3_K", "iq4_xs"])
@each_solver
def test_temporary_memory_does_not_grow_with_the_matrix(format: str, search: bool) -> None:
    def temporary_bytes(rows: int) -> int:
        weight = gaussian(rows, 512)
        tracemalloc.start()
        found = solve(format, weight, None, search)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak - sum(part.nbytes for part in found.parts().values())

    small, large = temporary_bytes(256), temporary_bytes(512)
    assert large < 1.05 * small
    assert large < 8 << 20


@each_format
@settings(max_examples=40, deadline=None)
@given(
    weight=arrays(
        np.float32,
        (1, 256),
        elements=st.floats(-1e5, 1e5, width=32),
        fill=st.sampled_from([0.0, 1.0, -2.5, 1e-30]),
    )
)
def test_the_search_ends_on_nearest_levels_for_any_row(format: str, weight: Floats) -> None:
    found = solve(format, weight, None, search=True)
    decoded = found.dequantize().astype(np.float64)
    slack = 1e-6 * np.abs(weight).max()
    assert np.all(np.abs(decoded - weight) <= distance_to_nearest_level(found, weight) + slack)
    assert np.sum((decoded - weight) ** 2) <= np.sum(weight.astype(np.float64) ** 2) + slack

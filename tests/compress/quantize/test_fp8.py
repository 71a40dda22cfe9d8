"""fp8: the nearest of E4M3's values, under a positive fp16 scale for each row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from layer_inputs import correlated, moments, output_error, weights

from edgepress.artifact.formats import get_format
from edgepress.compress.quantize.gptaq.grid import Grid
from edgepress.compress.quantize.gptaq.solve import InputSolver
from edgepress.compress.quantize.grid import encode, nearest_levels
from edgepress.compress.quantize.nearest import quantize_nearest
from edgepress.compress.quantize.scale_search import quantize_scale_search

FP8 = get_format("fp8")
LEVELS = np.array(FP8.levels)


@pytest.mark.parametrize("spread", [0.002, 1.0, 200.0])
def test_the_nearest_level_is_found_by_both_tables(spread: float) -> None:
    values = (np.random.default_rng(1).standard_normal((50, 100)) * spread).astype(np.float32)
    distance = np.abs(values.astype(np.float64)[..., None] - LEVELS)
    for found in (
        LEVELS[encode(values, FP8)],
        nearest_levels(values, FP8, np.empty_like(values)),
        Grid(FP8).nearest(torch.from_numpy(values.copy())).numpy(),
    ):
        np.testing.assert_array_equal(np.abs(values - found), distance.min(-1).astype(np.float32))


def test_every_value_is_within_half_a_gap_of_it() -> None:
    weight = (0.05 * np.random.default_rng(2).standard_t(4, (24, 384))).astype(np.float32)
    tensor = quantize_nearest(weight, "fp8")
    assert tensor.scales.shape == (24, 1) and tensor.step().min() > 0
    scaled = weight / tensor.step()
    # Three bits behind the point: gaps of an eighth of the power of two below, down to 2^-9.
    gaps = np.maximum(2.0 ** np.floor(np.log2(np.maximum(np.abs(scaled), 1e-9))) / 8, FP8.gap)
    off = np.abs(tensor.dequantize() / tensor.step() - scaled)
    # The scale's rounding to fp16 may leave the extreme value a little outside the grid.
    assert (off <= gaps / 2 + np.abs(scaled) * 2.0**-10).all()
    np.testing.assert_allclose(tensor.dequantize(), LEVELS[tensor.codes] * tensor.scales.astype(np.float64), rtol=1e-7)


def test_a_searched_scale_loses_less_and_solved_codes_less_still() -> None:
    weight, inputs = weights(24, 256), correlated(256)
    solver = InputSolver(moments(inputs))
    errors = [
        output_error(weight, tensor.dequantize(), inputs)
        for tensor in (quantize_nearest(weight, "fp8"), solver.quantize(weight, "fp8"))
    ]
    assert errors[1] < 0.7 * errors[0]
    squares = [
        float(((tensor.dequantize() - weight) ** 2).sum())
        for tensor in (quantize_nearest(weight, "fp8"), quantize_scale_search(weight, "fp8", None))
    ]
    assert squares[1] < squares[0]


@pytest.mark.parametrize("solver", ["nearest", "scale_search", "gptaq"])
def test_empty_and_tiny_rows_are_kept(solver: str) -> None:
    weight = np.zeros((3, 64), np.float32)
    weight[1] = -3e-9
    weight[2, 7] = -1.0
    solvers = {
        "nearest": lambda: quantize_nearest(weight, "fp8"),
        "scale_search": lambda: quantize_scale_search(weight, "fp8", None),
        "gptaq": lambda: InputSolver(moments(correlated(64))).quantize(weight, "fp8"),
    }
    values = solvers[solver]().dequantize()
    assert np.isfinite(values).all() and not values[0].any()
    assert np.abs(values - weight).max() < 0.01

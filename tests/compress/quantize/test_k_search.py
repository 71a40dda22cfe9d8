"""The activation-weighted search for the K types, against ggml with the same importance and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from ggml_oracle import ggml_dequantize, ggml_quantize
from grid_oracle import distance_to_nearest_level
from numpy.typing import NDArray

from edgepress.artifact.quantized import QuantizedTensor
from edgepress.compress.quantize.k_affine import quantize_k_affine
from edgepress.compress.quantize.k_symmetric import quantize_k_symmetric

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

FORMATS = ("q4_K", "q5_K", "q6_K", "q3_K", "iq4_xs")
SIGNED = ("q6_K", "q3_K", "iq4_xs")


def solve(format: str, weight: Floats, importance: Floats | None, search: bool = True) -> QuantizedTensor:
    routine = quantize_k_symmetric if format in SIGNED else quantize_k_affine
    return routine(weight, format, importance, search=search)


def emphasis(format: str, weight: Floats, importance: Floats | None) -> Doubles:
    """What ggml weighs each squared error with, (rows, columns)."""
    per_input = np.ones(weight.shape[1]) if importance is None else importance.astype(np.float64)
    if format == "q6_K":
        return np.tile(per_input, (len(weight), 1))
    blocks = weight.astype(np.float64).reshape(len(weight), -1, 256)
    root = np.sqrt(2 * np.mean(blocks**2, axis=2, keepdims=True) + blocks**2)
    weights: Doubles = root.reshape(weight.shape) * per_input
    return weights


def row_errors(format: str, weight: Floats, importance: Floats | None, decoded: Floats) -> Doubles:
    difference = decoded.astype(np.float64) - weight
    errors: Doubles = np.sum(emphasis(format, weight, importance) * difference**2, axis=1)
    return errors


def sample(kind: str, rows: int, columns: int) -> tuple[Floats, Floats]:
    """Weights and an importance."""
    rng = np.random.default_rng(5)
    weight = rng.standard_normal((rows, columns)) * 0.05
    spread = 1.0
    if kind == "heavy tails":
        weight = rng.standard_t(3, (rows, columns)) * 0.02
    if kind == "outlier columns":
        weight *= np.where(rng.random(columns) < 0.02, 8.0, 1.0)
    if kind == "few important inputs":
        spread = 2.5
    importance = np.exp(spread * rng.standard_normal(columns))
    return weight.astype(np.float32), importance.astype(np.float32)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["gaussian", "heavy tails", "outlier columns", "few important inputs"])
def test_the_weighted_error_is_below_ggmls_with_the_same_importance(format: str, kind: str) -> None:
    weight, importance = sample(kind, rows=64, columns=1024)
    theirs = row_errors(format, weight, importance, ggml_dequantize(format, ggml_quantize(format, weight, importance)))
    ours = row_errors(format, weight, importance, solve(format, weight, importance).dequantize())
    assert np.mean(ours <= theirs) >= 0.95
    assert ours.sum() <= {"q4_K": 0.96, "q5_K": 0.9, "q6_K": 0.9, "q3_K": 0.995, "iq4_xs": 0.96}[format] * theirs.sum()


@pytest.mark.parametrize("format", FORMATS)
def test_without_an_importance_it_still_beats_rounding_to_nearest(format: str) -> None:
    weight, _ = sample("gaussian", rows=32, columns=512)
    searched = row_errors(format, weight, None, solve(format, weight, None).dequantize())
    rounded = row_errors(format, weight, None, solve(format, weight, None, search=False).dequantize())
    assert np.all(searched <= rounded)


@pytest.mark.parametrize("format", FORMATS)
def test_only_the_ratio_of_importances_matters(format: str) -> None:
    weight, importance = sample("gaussian", rows=4, columns=512)
    plain = solve(format, weight, importance)
    scaled = solve(format, weight, importance * np.float32(2.0**-40))
    np.testing.assert_array_equal(plain.dequantize(), scaled.dequantize())


@pytest.mark.parametrize(("format", "top"), [("q4_K", 15), ("q5_K", 31)])
def test_scales_and_minima_are_near_the_best_of_all_6_bit_pairs(format: str, top: int) -> None:
    weight, importance = sample("gaussian", rows=4, columns=256)
    found = solve(format, weight, importance)
    assert found.super_scales is not None and found.super_mins is not None and found.mins is not None
    weights = emphasis(format, weight, importance)
    best_total, our_total = 0.0, 0.0
    for row, block in np.ndindex(4, 8):
        part = slice(32 * block, 32 * block + 32)
        scale = float(found.super_scales[row, 0]) * np.arange(1, 64)[:, None, None]
        minimum = float(found.super_mins[row, 0]) * np.arange(64)[None, :, None]
        x = weight[row, part].astype(np.float64)
        level = np.clip(np.rint((x + minimum) / scale), 0, top)
        errors = np.sum(weights[row, part] * (scale * level - minimum - x) ** 2, axis=-1)
        best_total += errors.min()
        our_total += errors[int(found.scales[row, block]) - 1, int(found.mins[row, block])]
    assert our_total <= 1.03 * best_total


@pytest.mark.parametrize(("format", "slack"), [("q6_K", 1.12), ("q3_K", 1.02), ("iq4_xs", 1.04)])
def test_the_signed_are_near_the_best_real_valued_scale_of_each_sub_block(format: str, slack: float) -> None:
    weight, importance = sample("gaussian", rows=4, columns=256)
    found = solve(format, weight, importance)
    ours = row_errors(format, weight, importance, found.dequantize()).sum()
    x = weight.astype(np.float64).reshape(-1, found.block_size)
    weights = emphasis(format, weight, importance).reshape(x.shape)
    levels = np.array(found.spec.levels)
    midpoints = (levels[1:] + levels[:-1]) / 2
    unreachable = 0.0  # every sub-block with a float64 scale of its own, chosen from 8000
    for values, weigh in zip(x, weights, strict=True):
        scale = np.linspace(0.4, 1.6, 4000)[:, None] * np.abs(values).max() / levels[-1]
        scale = np.concatenate([scale, -scale])
        level = levels[np.searchsorted(midpoints, values / scale)]
        unreachable += np.sum(weigh * (scale * level - values) ** 2, axis=1).min()
    assert unreachable <= ours <= slack * unreachable


@pytest.mark.parametrize("format", FORMATS)
def test_every_code_is_the_nearest_level(format: str) -> None:
    weight, importance = sample("heavy tails", rows=16, columns=512)
    found = solve(format, weight, importance)
    error = np.abs(found.dequantize().astype(np.float64) - weight)
    assert np.all(error <= distance_to_nearest_level(found, weight))


@pytest.mark.parametrize("format", FORMATS)
def test_weights_that_already_lie_on_the_grid_are_found_again(format: str) -> None:
    weight, importance = sample("gaussian", rows=32, columns=512)
    on_grid = solve(format, weight, None, search=False).dequantize()
    again = solve(format, on_grid, importance).dequantize()
    assert np.mean((again == on_grid).reshape(-1, 256).all(axis=1)) >= 0.95
    assert np.sum((again - on_grid) ** 2.0) <= 1e-3 * np.sum((on_grid - weight) ** 2.0)


@pytest.mark.parametrize("format", FORMATS)
def test_searching_again_costs_little_of_the_first_error(format: str) -> None:
    weight, importance = sample("gaussian", rows=32, columns=512)
    once = solve(format, weight, importance).dequantize()
    twice = solve(format, once, importance).dequantize()
    first, second = row_errors(format, weight, importance, once), row_errors(format, once, importance, twice)
    assert second.sum() <= 0.1 * first.sum()

"""The scale search lowers the activation-weighted error, below ggml's own with the same importances."""

from __future__ import annotations

import numpy as np
import pytest
from ggml_oracle import ggml_dequantize, ggml_quantize
from numpy.typing import NDArray

from edgepress.artifact.formats import get_format
from edgepress.compress.quantize.nearest import quantize_nearest
from edgepress.compress.quantize.scale_search import quantize_scale_search

FORMATS = ("q8_0", "q5_0", "q5_1", "q4_0", "q4_1", "iq4_nl")


def problem(kind: str, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A weight (128, 192) and an importance (192,)."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((128, 192)) if kind == "gaussian" else rng.standard_t(3, (128, 192))
    return (0.05 * weight).astype(np.float32), np.exp(rng.standard_normal(192)).astype(np.float32)


def weighted_error(
    values: NDArray[np.float32], weight: NDArray[np.float32], importance: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The objective, in float64 and per row, written down anew from its definition."""
    exact = weight.astype(np.float64)
    emphasis = importance * np.sqrt((exact**2).mean(axis=1, keepdims=True) + exact**2)
    error: NDArray[np.float64] = (emphasis * (values - exact) ** 2).sum(axis=1)
    return error


@pytest.mark.parametrize("kind", ["gaussian", "heavy"])
@pytest.mark.parametrize("format", FORMATS)
def test_the_error_is_below_that_of_ggml_with_the_same_importance(format: str, kind: str) -> None:
    weight, importance = problem(kind)
    ours = weighted_error(quantize_scale_search(weight, format, importance).dequantize(), weight, importance)
    packed = ggml_quantize(format, weight, importance)
    theirs = weighted_error(ggml_dequantize(format, packed), weight, importance)
    assert ours.sum() < theirs.sum()
    assert ours.sum() < weighted_error(quantize_nearest(weight, format).dequantize(), weight, importance).sum()


@pytest.mark.parametrize("format", ["q4_0", "q5_0", "iq4_nl"])
def test_a_block_is_close_to_the_best_of_all_fp16_scales(format: str) -> None:
    weight, importance = problem("gaussian", seed=3)
    weight, importance = weight[:2, :32], importance[:32]
    levels = get_format(format).level_array().astype(np.float64)
    found = weighted_error(quantize_scale_search(weight, format, importance).dequantize(), weight, importance)
    for row in range(2):
        reach = np.abs(weight[row]).max() / np.abs(levels).max()
        scales = np.unique(np.linspace(-3 * reach, 3 * reach, 4001).astype(np.float16)).astype(np.float64)
        nearest = np.abs(weight[row][None, :, None] - scales[:, None, None] * levels).argmin(axis=2)
        values = (scales[:, None] * levels[nearest]).astype(np.float32)
        repeated = np.repeat(weight[row : row + 1], len(scales), axis=0)
        best = weighted_error(values, repeated, importance).min()
        assert found[row] <= 1.02 * best


@pytest.mark.parametrize("format", FORMATS)
def test_rows_do_not_depend_on_their_neighbours(format: str) -> None:
    weight, importance = problem("heavy", seed=5)
    whole = quantize_scale_search(weight, format, importance)
    part = quantize_scale_search(np.ascontiguousarray(weight[40:50]), format, importance)
    assert np.array_equal(whole.rows(slice(40, 50)).dequantize(), part.dequantize())


@pytest.mark.parametrize("format", FORMATS)
def test_empty_constant_and_tiny_blocks_are_kept(format: str) -> None:
    weight = np.zeros((4, 32), np.float32)
    weight[1] = 0.5
    weight[2] = -3e-9
    weight[3, 7] = 1.0
    values = quantize_scale_search(weight, format, np.ones(32, np.float32)).dequantize()
    assert np.isfinite(values).all()
    assert np.array_equal(values[0], weight[0])
    assert np.abs(values - weight).max() < 0.01


@pytest.mark.parametrize("format", [*FORMATS, "int8", "fp8"])
@pytest.mark.parametrize("largest", [1e-42, 2.8e-39, 1e-37, 1e-33, 1e-12])
def test_blocks_that_no_scale_is_small_enough_for_become_zeros(format: str, largest: float) -> None:
    """Some of their values are zero already, and nothing overflows on the way."""
    weight = np.zeros((3, 64), np.float32)
    weight[0], weight[1, :7], weight[2] = 0.25, largest, -largest
    values = quantize_scale_search(weight, format, None).dequantize()
    assert np.abs(values[0] - 0.25).max() < 0.01
    assert np.isfinite(values).all() and np.abs(values[1:]).max() < 1e-5


def test_features_that_never_fire_still_get_sensible_codes() -> None:
    weight, importance = problem("gaussian", seed=7)
    importance[:96] = 0
    values = quantize_scale_search(weight, "q4_0", importance).dequantize()
    assert np.abs(values - weight)[:, :96].mean() < 0.25 * np.abs(weight).mean()

"""AWQ's factors, and the choice of their strength by the error of the outputs."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from one_core import one_core  # noqa: F401

from edgepress.artifact.quantized import QuantizedTensor
from edgepress.compress.quantize.nearest import quantize_nearest
from edgepress.compress.quantize.prepare.awq import awq_factors, best_factors, output_error

pytestmark = pytest.mark.usefixtures("one_core")

Array = NDArray[np.float64]


def test_awq_factors_are_the_formula() -> None:
    x, w = np.asarray([1.0, 10.0, 0.2]), np.asarray([2.0, 0.5, 1.0])
    for strength in (0.0, 0.25, 0.5, 1.0):
        wanted = [float(a) ** strength / float(b) ** (1 - strength) for a, b in zip(x, w, strict=True)]
        wanted = np.asarray(wanted) / np.prod(wanted) ** (1 / 3)
        np.testing.assert_allclose(awq_factors(x**2, w**2, strength), wanted, rtol=1e-12)


def test_features_that_never_fire_or_that_nothing_reads_keep_their_scale() -> None:
    factors = awq_factors(np.asarray([0.0, 4.0, 1.0, 9.0]), np.asarray([1.0, 0.0, 4.0, 1.0]), 0.5)
    assert factors[:2].tolist() == [1, 1]
    assert factors[2] * factors[3] == pytest.approx(1)


def loud_inputs(columns: int) -> tuple[NDArray[np.float32], Array]:
    """A weight, and inputs of which a few features are loud."""
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(500, columns))
    inputs[:, ::19] *= 8
    return rng.normal(size=(48, columns)).astype(np.float32), inputs


def nearest(weight: NDArray[np.float32], format: str, _hessian: Array) -> QuantizedTensor:
    return quantize_nearest(weight, format)


def test_the_error_that_awq_searches_is_that_of_the_outputs() -> None:
    weight, inputs = loud_inputs(64)
    factors = np.exp(np.random.default_rng(4).normal(scale=0.3, size=64))
    rounded = quantize_nearest((weight * factors).astype(np.float32), "q4_0").dequantize()
    wanted = ((inputs / factors) @ rounded.T - inputs @ weight.T.astype(np.float64)) ** 2
    found = output_error({"w": (weight, "q4_0")}, inputs.T @ inputs / 500, factors, nearest)
    assert found == pytest.approx(wanted.sum() / ((inputs @ weight.T) ** 2).sum(), rel=1e-4)


def test_awq_takes_the_strength_of_least_error_or_none() -> None:
    weight, inputs = loud_inputs(64)
    hessian, energy = inputs.T @ inputs / 500, np.square(weight.astype(np.float64)).sum(axis=0)
    weights = {"w": (weight, "q4_0")}
    strengths = np.linspace(0, 1, 11)
    errors = [
        output_error(weights, hessian, awq_factors(np.diag(hessian), energy, strength), nearest)
        for strength in strengths
    ]
    found = best_factors(weights, hessian, energy, nearest, tuple(strengths))
    assert found is not None
    best = awq_factors(np.diag(hessian), energy, strengths[int(np.argmin(errors))])
    np.testing.assert_array_equal(found, best)
    assert min(errors) < 0.8 * output_error(weights, hessian, np.ones(64), nearest)
    assert best_factors({}, hessian, energy, nearest) is None  # nothing is rounded: nothing to gain

"""The search for factors and scales, against the error computed from the definition in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgepress.export.encoder.rounding import choose_rounding, quantize_columns, round_scale, smoothing_factors


def relative_error(inputs: NDArray[np.float32], weight: NDArray[np.float32], factors: object, scale: float) -> float:
    f = np.ones(inputs.shape[1]) if factors is None else np.asarray(factors, np.float64)
    codes, scales = quantize_columns((weight * f[:, None]).astype(np.float32))
    x = inputs / f
    rounded = scale * np.clip(np.round(x / scale), -127, 127)
    wanted = inputs.astype(np.float64) @ weight
    return float(((rounded @ (codes * scales.astype(np.float64)) - wanted) ** 2).sum() / (wanted**2).sum())


def data(loud: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    random = np.random.default_rng(3)
    inputs = random.standard_normal((200, 48)).astype(np.float32)
    inputs[:, 7] *= loud
    return inputs, (random.standard_normal((48, 32)) * 0.1).astype(np.float32)


def test_the_stated_error_is_that_of_the_definition() -> None:
    inputs, weight = data(40.0)
    found = choose_rounding(inputs, weight)
    assert np.isclose(found.error, relative_error(inputs, weight, found.factors, found.scale), rtol=1e-3)


def test_a_loud_channel_is_made_quiet_and_the_product_gains_by_it() -> None:
    inputs, weight = data(40.0)
    found = choose_rounding(inputs, weight)
    assert found.factors is not None
    assert found.factors[7] == found.factors.max()
    plain = relative_error(inputs, weight, None, float(np.abs(inputs).max() / 127))
    assert found.error < 0.1 * plain


def test_it_is_never_worse_than_plain_rounding() -> None:
    for loud in (0.0, 1.0, 5.0):
        inputs, weight = data(loud)
        plain = relative_error(inputs, weight, None, float(round_scale(np.abs(inputs).max() / 127)))
        assert choose_rounding(inputs, weight).error <= plain * (1 + 1e-5)


def test_factors_leave_the_product_as_it_is() -> None:
    inputs, weight = data(40.0)
    factors = smoothing_factors(inputs, weight, 0.5)
    np.testing.assert_allclose((inputs / factors) @ (weight * factors[:, None]), inputs @ weight, atol=1e-4)


def test_codes_are_symmetric_and_scales_fit_float16() -> None:
    weight = (np.random.default_rng(1).standard_normal((64, 9)) * 3e-3).astype(np.float32)
    weight[:, 4] = 0
    codes, scales = quantize_columns(weight)
    assert codes.dtype == np.int8
    assert codes.min() >= -127
    np.testing.assert_array_equal(scales.astype(np.float16).astype(np.float32), scales)
    assert (scales > 0).all()
    assert np.abs(codes * scales - weight).max() <= 0.31 * np.abs(weight).max()  # clipped at most to 0.7
    error = ((codes * scales - weight) ** 2).sum(axis=0)
    plain = round_scale(np.abs(weight).max(axis=0) / 127)
    assert (error <= ((np.round(weight / plain) * plain - weight) ** 2).sum(axis=0) * (1 + 1e-5)).all()

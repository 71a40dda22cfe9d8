"""Rounding to the K types by ggml's own rule, against ggml's C code."""

from __future__ import annotations

import platform

import numpy as np
import pytest
from ggml_oracle import ggml_dequantize, ggml_quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from edgepress.artifact.quantized import QuantizedTensor
from edgepress.compress.quantize.k_affine import quantize_k_affine
from edgepress.compress.quantize.k_symmetric import quantize_k_symmetric
from edgepress.export.gguf.blocks import pack

Floats = NDArray[np.float32]

FORMATS = ("q4_K", "q5_K", "q6_K", "q3_K", "iq4_xs")
SIGNED = ("q6_K", "q3_K", "iq4_xs")

# Elsewhere a compiler may fuse a multiplication and an addition of ggml's, which can move a choice between two fits.
IDENTICAL = 1.0 if platform.machine() in ("x86_64", "AMD64") else 0.99


def nearest(format: str, weight: Floats) -> QuantizedTensor:
    solve = quantize_k_symmetric if format in SIGNED else quantize_k_affine
    return solve(weight, format, None, search=False)


def share_of_equal_blocks(ours: NDArray[np.generic], theirs: NDArray[np.generic], block: int) -> float:
    return float((ours.reshape(-1, block) == theirs.reshape(-1, block)).all(axis=1).mean())


def kinds_of_weights() -> dict[str, Floats]:
    rng = np.random.default_rng(11)
    shape = (24, 768)
    gaussian = rng.standard_normal(shape) * 0.05
    scattered = np.exp(3 * np.repeat(rng.standard_normal((24, 24)), 32, axis=1))
    with_holes = gaussian.copy()
    with_holes[:, :32] = 0
    with_holes[:, 64:96] = 0.3
    with_holes[:, 128:160] = -0.3
    with_holes[:, 256:512] = 0
    weights = {
        "gaussian": gaussian,
        "heavy tails": rng.standard_t(2, shape) * 0.02,
        "positive": rng.random(shape),
        "negative": -1 - rng.random(shape),
        "sub-blocks of many sizes": gaussian * scattered,
        "tied extremes": np.rint(gaussian * 40),
        "zero and constant sub-blocks": with_holes,
        "below fp16's normal range": gaussian * 1e-5,
        "below fp16's range": gaussian * 1e-12,
    }
    return {name: value.astype(np.float32) for name, value in weights.items()}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", kinds_of_weights())
def test_the_file_is_the_one_ggml_writes(format: str, kind: str) -> None:
    weight = kinds_of_weights()[kind]
    theirs = ggml_quantize(format, weight)
    ours = nearest(format, weight)
    assert share_of_equal_blocks(pack(ours), theirs, ours.spec.block_bytes) >= IDENTICAL
    errors = [np.sum((decoded - weight) ** 2.0) for decoded in (ours.dequantize(), ggml_dequantize(format, theirs))]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3 if IDENTICAL < 1 else 0)


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=60, deadline=None)
@given(
    weight=arrays(
        np.float32,
        (1, 256),
        elements=st.floats(-1e5, 1e5, width=32, allow_subnormal=False),
        fill=st.sampled_from([0.0, 1.0, -2.5, 1e-30]),
    )
)
def test_any_row_decodes_to_what_ggml_makes_of_it(format: str, weight: Floats) -> None:
    ours, theirs = nearest(format, weight).dequantize(), ggml_dequantize(format, ggml_quantize(format, weight))
    if IDENTICAL == 1:
        np.testing.assert_array_equal(ours, theirs)
    else:
        errors = [float(np.sum((decoded - weight) ** 2.0)) for decoded in (ours, theirs)]
        assert errors[0] <= 1.05 * errors[1] + 1e-9


@pytest.mark.parametrize("format", FORMATS)
def test_rounding_what_was_rounded_changes_almost_nothing(format: str) -> None:
    weight = kinds_of_weights()["gaussian"]
    once = nearest(format, weight).dequantize()
    twice = nearest(format, once).dequantize()
    # Not exactly nothing: least squares may refit a sub-block that touches neither end of its grid to another scale.
    assert np.sum((twice - once) ** 2.0) <= (0.05 if format == "q3_K" else 0.02) * np.sum((once - weight) ** 2.0)

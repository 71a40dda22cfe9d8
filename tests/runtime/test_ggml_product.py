"""The product that is timed is the product: ggml's kernels, on weights as llama.cpp lays them out."""

from __future__ import annotations

import numpy as np
import pytest
from ggml_oracle import FORMATS, ggml_dequantize, ggml_quantize

from edgepress.runtime.ggml_product import GgmlProduct

pytest.importorskip("llama_cpp")


@pytest.mark.parametrize("tokens", [1, 40])
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_multiplies_as_its_values_say(format: str, tokens: int) -> None:
    shape = (96, 512)
    with GgmlProduct(format, shape, tokens=tokens, copies=3, threads=1) as product:
        product.run()
        found = product.output()
        weight = ggml_dequantize(format, ggml_quantize(format, product.pattern))
        expected = product.input @ weight[np.arange(shape[0]) % len(weight)].T
    assert found.shape == (tokens, shape[0])
    # The inputs are rounded to eight bits inside.
    assert np.linalg.norm(found - expected) < 0.015 * np.linalg.norm(expected)


@pytest.mark.parametrize("format", ["f32", "f16"])
def test_floats_multiply_as_floats(format: str) -> None:
    with GgmlProduct(format, (24, 40), tokens=2, copies=1, threads=2) as product:
        product.run()
        np.testing.assert_allclose(product.output(), product.input @ product.pattern[:24].T, atol=0.05)


def test_more_copies_change_nothing_and_a_closed_product_can_be_closed_again() -> None:
    product = GgmlProduct("q4_0", (64, 64), tokens=1, copies=1, threads=1)
    product.run()
    one = product.output()
    product.close()
    product.close()
    with GgmlProduct("q4_0", (64, 64), tokens=1, copies=50, threads=1) as many:
        many.run()
        np.testing.assert_array_equal(many.output(), one)

"""The rotation of a head's values is orthogonal and none that an engine undoes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from one_core import one_core  # noqa: F401

from edgepress.compress.quantize.prepare.rotate_v_o import rotate_columns, rotate_rows, rotation

pytestmark = pytest.mark.usefixtures("one_core")

Array = NDArray[np.float64]


@pytest.mark.parametrize("size", [2, 24, 32, 64, 80])
def test_rotations_are_orthogonal_and_undo_each_other_across_a_head(size: int) -> None:
    matrix, rng = rotation(size), np.random.default_rng(1)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-12)
    if size & (size - 1) == 0:
        np.testing.assert_allclose(np.abs(matrix), size**-0.5, rtol=1e-12)
    values, output = (rng.normal(size=shape).astype(np.float32) for shape in ((2 * size, 7), (5, 2 * size)))
    bias = rng.normal(size=2 * size).astype(np.float32)
    for head in range(2):
        part = slice(head * size, (head + 1) * size)
        np.testing.assert_allclose(rotate_rows(values, matrix)[part], matrix @ values[part], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(rotate_rows(bias, matrix)[part], matrix @ bias[part], rtol=1e-5, atol=1e-6)
    product = rotate_columns(output, matrix) @ rotate_rows(values, matrix)
    np.testing.assert_allclose(product, output @ values, rtol=1e-4, atol=1e-4)


def test_the_rotation_is_not_the_one_that_an_engine_would_undo() -> None:
    """llama.cpp turns quantized caches by the plain symmetric Hadamard matrix."""
    plain = np.ones((1, 1))
    for _ in range(6):
        plain = np.kron(np.asarray([[1, 1], [1, -1]]), plain)
    turned = plain / 8 @ rotation(64)
    assert np.abs(turned).max() < 0.9

"""Recovering Llama 3's rope scaling from its divisors."""

from __future__ import annotations

import numpy as np
import pytest

from edgepress.artifact.rope import divisors
from edgepress.artifact.spec import RopeSpec
from edgepress.compress.student.gguf_rope import recover_llama3


def _stored(rope: RopeSpec, head_dim: int) -> np.ndarray:
    plain = rope.theta ** (-np.arange(0, head_dim, 2) / head_dim)
    return divisors(rope, plain).astype(np.float32)


def _llama3(factor: float, low: float, high: float, original: int, theta: float = 5e5) -> RopeSpec:
    return RopeSpec(
        theta=theta,
        scaling="llama3",
        factor=factor,
        low_freq_factor=low,
        high_freq_factor=high,
        original_context=original,
    )


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_released_parameters_come_back_exactly(head_dim: int, factor: float) -> None:
    rope = _llama3(factor, 1.0, 4.0, 8192)
    assert recover_llama3(_stored(rope, head_dim), 5e5) == rope


@pytest.mark.parametrize(
    "rope",
    [_llama3(16.0, 1.0, 8.0, 4096), _llama3(4.0, 1.0, 2.0, 1000, theta=1e4), _llama3(20.0, 1.0, 4.0, 131072)],
    ids=str,
)
def test_other_parameters_are_solved_for(rope: RopeSpec) -> None:
    assert recover_llama3(_stored(rope, 128), rope.theta) == rope


def test_parameters_that_differ_by_a_common_factor_come_back_as_the_same_function() -> None:
    rope = _llama3(8.0, 2.0, 8.0, 16384)
    recovered = recover_llama3(_stored(rope, 128), rope.theta)
    assert recovered is not None
    assert recovered.low_freq_factor == 1.0
    np.testing.assert_allclose(_stored(recovered, 128), _stored(rope, 128), rtol=1e-6)


def test_constants_are_no_scaling_or_linear_scaling() -> None:
    assert recover_llama3(np.ones(32, np.float32), 1e4) == RopeSpec(theta=1e4)
    linear = RopeSpec(theta=1e4, scaling="linear", factor=4.0)
    assert recover_llama3(np.full(32, 4, np.float32), 1e4) == linear


@pytest.mark.parametrize(
    "stored",
    [np.linspace(1, 8, 32), np.full(32, np.nan), np.zeros(32), np.linspace(8, 1, 32), np.full(32, 0.5)],
    ids=["a line", "NaN", "zeros", "falling", "below one"],
)
def test_what_is_no_llama3_scaling_is_not_taken_for_one(stored: np.ndarray) -> None:
    assert recover_llama3(stored.astype(np.float32), 5e5) is None

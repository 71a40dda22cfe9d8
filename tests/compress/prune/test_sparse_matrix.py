"""Zeros go where they cost least, and what is left answers as well as it can: against plain inverses in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sparse_by_hand import sparse_by_hand

from edgepress.compress.prune.sparse_matrix import Pattern, magnitude, sparsegpt, wanda
from edgepress.compress.quantize.gptaq.sweep import upper_factor

ROWS, COLUMNS = 6, 16
TWO_OF_FOUR = Pattern(zeros=2, of=4)
HALF = Pattern(share=0.5)
PATTERNS = (TWO_OF_FOUR, Pattern(zeros=4, of=8), HALF, Pattern(share=0.25))


def problem(columns: int = COLUMNS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A matrix, and second moments of inputs that hang together."""
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(4 * columns, columns)) @ random.normal(size=(columns, columns))
    weight = random.normal(size=(ROWS, columns)).astype(np.float32)
    return weight, inputs.T @ inputs / len(inputs) + 0.1 * np.eye(columns)


def solved(weight: np.ndarray, hessian: np.ndarray, pattern: Pattern) -> np.ndarray:
    return sparsegpt(torch.from_numpy(weight), upper_factor(torch.from_numpy(hessian)), pattern).numpy()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_walk_is_that_of_plain_inverses(pattern: Pattern) -> None:
    weight, hessian = problem()
    np.testing.assert_allclose(solved(weight, hessian, pattern), sparse_by_hand(weight, hessian, pattern), atol=1e-5)


def test_blocks_hand_on_what_they_lose() -> None:
    """A matrix wider than a block: with a pattern of neighbours blocks make no difference."""
    weight, hessian = problem(columns=160)
    np.testing.assert_allclose(
        solved(weight, hessian, TWO_OF_FOUR), sparse_by_hand(weight, hessian, TWO_OF_FOUR), atol=1e-4
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pattern", PATTERNS)
def test_it_loses_less_than_the_scores_that_move_nothing(pattern: Pattern, seed: int) -> None:
    weight, hessian = problem(columns=128, seed=seed)
    values = torch.from_numpy(weight)

    def loss(found: np.ndarray) -> float:
        error = found.astype(np.float64) - weight
        return float(np.einsum("ri,ij,rj->", error, hessian, error))

    others = wanda(values, torch.from_numpy(hessian).diagonal(), pattern), magnitude(values, pattern)
    assert loss(solved(weight, hessian, pattern)) < 0.8 * min(loss(other.numpy()) for other in others)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_as_many_zeros_as_were_asked_for(pattern: Pattern) -> None:
    weight, hessian = problem(columns=128)
    values = torch.from_numpy(weight)
    share = pattern.zeros / pattern.of if pattern.of else pattern.share
    found = [
        solved(weight, hessian, pattern),
        wanda(values, torch.from_numpy(hessian).diagonal(), pattern).numpy(),
        magnitude(values, pattern).numpy(),
    ]
    for each in found:
        assert (each == 0).mean() == pytest.approx(share)
        if pattern.of:
            assert ((each.reshape(ROWS, -1, pattern.of) == 0).sum(-1) == pattern.zeros).all()


def test_the_scores_are_the_published_ones() -> None:
    weight, hessian = problem()
    loud = np.abs(weight) * np.sqrt(np.diagonal(hessian))
    found = wanda(torch.from_numpy(weight), torch.from_numpy(hessian).diagonal(), HALF).numpy()
    for row in range(ROWS):
        assert set(np.flatnonzero(found[row] == 0)) == set(np.argsort(loud[row])[: COLUMNS // 2])
    smallest = np.sort(np.abs(weight), axis=None)[: weight.size // 2]
    gone = magnitude(torch.from_numpy(weight), HALF).numpy() == 0
    np.testing.assert_array_equal(np.sort(np.abs(weight[gone])), smallest)

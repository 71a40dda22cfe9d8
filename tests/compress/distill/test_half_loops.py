"""Candidates for a top k are all that may be in it, and few."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgepress.compress.distill import half_loops

WIDE = 64 * 40 + 13


def candidates_of(row: torch.Tensor, wanted: int) -> list[int]:
    found = np.empty(len(row), np.int64)
    return sorted(found[: half_loops._candidates(row.view(torch.uint16).numpy(), wanted, found)].tolist())


@pytest.mark.parametrize("wanted", [1, 17, 80, 700, WIDE])
@pytest.mark.parametrize("shift", [-40.0, 0.0])
def test_candidates_are_all_that_reach_one_of_them_and_enough(wanted: int, shift: float) -> None:
    for seed in range(5):
        row = (torch.from_numpy(np.random.default_rng(seed).standard_normal(WIDE) * 4) + shift).bfloat16()
        found = candidates_of(row, wanted)
        least = row[found].min()
        assert found == (row >= least).nonzero().flatten().tolist()
        assert wanted <= len(found) <= max(2.5 * wanted, 25)


@pytest.mark.parametrize("start", [0, 64 * 11 + 7, WIDE - 30])
def test_likely_tokens_may_all_be_neighbours(start: int) -> None:
    row = torch.arange(WIDE, dtype=torch.float32).neg().div(100).bfloat16()
    row[start : start + 30] = 50 + torch.arange(30.0)
    assert set(candidates_of(row, 30)) >= set(range(start, start + 30))


def test_of_tokens_as_likely_as_the_last_candidate_none_is_left_out() -> None:
    row = torch.zeros(WIDE, dtype=torch.bfloat16)
    assert candidates_of(row, 20) == list(range(WIDE))
    row[[5, WIDE - 1]] = 1.0
    assert candidates_of(row, 2) == [5, WIDE - 1]

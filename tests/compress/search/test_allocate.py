"""The allocation is the exact optimum and holds its budget to the byte."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgepress.compress.search.allocate import allocate, allocate_for_loss, smallest_within
from edgepress.compress.search.limits import byte_limit
from edgepress.compress.search.local import improve, random_allocation
from edgepress.errors import InputError

FORMATS = ("small", "middle", "large")


def problem(tensors: int, seed: int) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, int]]]:
    """Losses that fall with size, by tensor and format."""
    rng = np.random.default_rng(seed)
    sizes = {
        f"t{i}": dict(zip(FORMATS, np.sort(rng.integers(10, 400, 3)).tolist(), strict=True)) for i in range(tensors)
    }
    losses = {
        f"t{i}": dict(zip(FORMATS, (-np.sort(-rng.exponential(1, 3))).tolist(), strict=True)) for i in range(tensors)
    }
    return losses, sizes


def total(table: dict[str, dict[str, float]] | dict[str, dict[str, int]], chosen: dict[str, str]) -> float:
    return sum(table[name][format] for name, format in chosen.items())


@pytest.mark.parametrize("seed", range(8))
def test_no_assignment_within_the_budget_loses_less(seed: int) -> None:
    losses, sizes = problem(6, seed)
    least = sum(min(row.values()) for row in sizes.values())
    most = sum(max(row.values()) for row in sizes.values())
    budget = least + (most - least) * 0.4
    chosen = allocate(losses, sizes, budget)
    assert total(sizes, chosen) <= budget
    every = (dict(zip(losses, formats, strict=True)) for formats in itertools.product(FORMATS, repeat=6))
    best = min(total(losses, other) for other in every if total(sizes, other) <= budget)
    assert total(losses, chosen) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_no_assignment_within_the_bound_is_smaller(seed: int) -> None:
    losses, sizes = problem(6, seed)
    least = sum(min(row.values()) for row in losses.values())
    bound = 1.6 * least
    chosen = allocate_for_loss(losses, sizes, bound)
    assert total(losses, chosen) <= bound
    every = (dict(zip(losses, formats, strict=True)) for formats in itertools.product(FORMATS, repeat=6))
    assert total(sizes, chosen) == min(total(sizes, other) for other in every if total(losses, other) <= bound)


def test_a_budget_one_byte_below_the_smallest_is_refused_and_the_smallest_is_met() -> None:
    losses, sizes = problem(5, 1)
    least = sum(min(row.values()) for row in sizes.values())
    assert allocate(losses, sizes, least) == dict.fromkeys(sizes, "small")
    with pytest.raises(InputError, match="raise the budget"):
        allocate(losses, sizes, least - 1)


def test_a_bound_that_the_finest_formats_miss_is_refused() -> None:
    losses, sizes = problem(5, 1)
    with pytest.raises(InputError, match="max_kld"):
        allocate_for_loss(losses, sizes, 0.99 * sum(min(row.values()) for row in losses.values()))


def test_many_tensors_are_solved_within_the_budget_to_the_byte() -> None:
    losses, sizes = problem(211, 3)
    budget = 1.3 * sum(min(row.values()) for row in sizes.values())
    chosen = allocate(losses, sizes, budget)
    assert set(chosen) == set(sizes)
    assert budget - 10 < total(sizes, chosen) <= budget


def test_the_local_search_keeps_the_budget_and_only_what_lowers_the_divergence() -> None:
    """The true divergence weighs the tensors otherwise than the prediction, which only trying can tell."""
    losses, sizes = problem(12, 5)
    budget = 1.5 * sum(min(row.values()) for row in sizes.values())
    start = allocate(losses, sizes, budget)
    weights = dict(zip(losses, np.random.default_rng(1).uniform(0.1, 5, 12), strict=True))
    tried: list[tuple[dict[str, str], float]] = []

    def divergence(formats: dict[str, str]) -> float:
        found: float = sum(weights[name] * losses[name][format] for name, format in formats.items())
        tried.append((dict(formats), found))
        return found

    limits = [byte_limit(sizes, budget)]
    best, reached = improve(start, losses, limits, divergence, np.random.default_rng(0), 60, lambda _: None)
    assert all(total(sizes, formats) <= budget for formats, _ in tried)
    assert reached == min(found for _, found in tried) < tried[0][1]
    assert (best, reached) in tried


def test_random_allocations_differ_and_use_the_budget_up() -> None:
    _, sizes = problem(60, 2)
    budget = 1.4 * sum(min(row.values()) for row in sizes.values())
    rng = np.random.default_rng(0)
    smallest = smallest_within(sizes, None)
    found = [random_allocation([byte_limit(sizes, budget)], smallest, rng) for _ in range(3)]
    assert found[0] != found[1] != found[2]
    for formats in found:
        used = total(sizes, formats)
        assert used <= budget
        spare = budget - used
        assert all(
            sizes[name][other] - sizes[name][format] > spare or sizes[name][other] <= sizes[name][format]
            for name, format in formats.items()
            for other in FORMATS
        )

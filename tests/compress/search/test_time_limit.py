"""Bytes and time are bounded together: the optimum is exact, no trial breaks either, and a conflict is explained."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgepress.compress.search.allocate import allocate, allocate_for_loss, smallest_within
from edgepress.compress.search.limits import byte_limit, kept, time_limit
from edgepress.compress.search.local import improve, random_allocation
from edgepress.errors import InputError

FORMATS = ("small", "middle", "large")
Table = dict[str, dict[str, float]]


def problem(tensors: int, seed: int) -> tuple[Table, Table, Table]:
    """Losses that fall with size, and times that follow neither."""
    rng = np.random.default_rng(seed)

    losses = [-np.sort(-rng.exponential(1, 3)) for _ in range(tensors)]
    sizes = [np.sort(rng.integers(10, 400, 3)) for _ in range(tensors)]
    times = [rng.uniform(0.01, 0.2, 3) for _ in range(tensors)]
    return table(losses), table(sizes), table(times)


def table(rows: Sequence[NDArray[Any]]) -> Table:
    return {f"t{i}": dict(zip(FORMATS, row.tolist(), strict=True)) for i, row in enumerate(rows)}


def total(table: Table, chosen: dict[str, str]) -> float:
    return sum(table[name][format] for name, format in chosen.items())


def every(tensors: Table) -> list[dict[str, str]]:
    choices = itertools.product(FORMATS, repeat=len(tensors))
    return [dict(zip(tensors, formats, strict=True)) for formats in choices]


@pytest.mark.parametrize("seed", range(12))
def test_no_assignment_within_both_limits_loses_less(seed: int) -> None:
    losses, sizes, times = problem(6, seed)
    rng = np.random.default_rng(seed)
    some = every(losses)[int(rng.integers(3**6))]
    budget, target = total(sizes, some) * 1.05, total(times, some) * 1.02
    allowed = [found for found in every(losses) if total(sizes, found) <= budget and total(times, found) <= target]
    chosen = allocate(losses, sizes, budget, time_limit(times, target))
    assert chosen in allowed
    assert total(losses, chosen) == pytest.approx(min(total(losses, found) for found in allowed), rel=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_no_assignment_within_the_divergence_and_the_time_is_smaller(seed: int) -> None:
    losses, sizes, times = problem(6, seed)
    some = every(losses)[int(np.random.default_rng(seed).integers(3**6))]
    bound, target = total(losses, some) * 1.05, total(times, some) * 1.02
    allowed = [found for found in every(losses) if total(losses, found) <= bound and total(times, found) <= target]
    chosen = allocate_for_loss(losses, sizes, bound, time_limit(times, target))
    assert chosen in allowed
    assert total(sizes, chosen) == min(total(sizes, found) for found in allowed)


@pytest.mark.parametrize("seed", range(4))
def test_the_time_alone_gives_the_least_loss_within_it(seed: int) -> None:
    losses, sizes, times = problem(6, seed)
    target = 1.3 * sum(min(row.values()) for row in times.values())
    chosen = allocate(losses, sizes, math.inf, time_limit(times, target))
    best = min(total(losses, found) for found in every(losses) if total(times, found) <= target)
    assert total(times, chosen) <= target
    assert total(losses, chosen) == pytest.approx(best, rel=1e-5)


def test_where_the_smaller_format_is_the_slower_one_the_larger_is_chosen() -> None:
    names = [f"t{i}" for i in range(4)]
    sizes: Table = {name: {"small": 10, "large": 20} for name in names}
    losses: Table = {name: {"small": 0.1, "large": 0.1} for name in names}
    times: Table = {name: {"small": 2.0, "large": 1.0} for name in names}
    assert allocate_for_loss(losses, sizes, 1.0) == dict.fromkeys(names, "small")
    assert allocate_for_loss(losses, sizes, 1.0, time_limit(times, 4.5)) == dict.fromkeys(names, "large")
    found = allocate_for_loss(losses, sizes, 1.0, time_limit(times, 6.0))
    assert sorted(found.values()) == ["large", "large", "small", "small"]


def test_the_line_says_which_limit_binds() -> None:
    sizes: Table = {"t": {"small": 10e6, "large": 20e6}}
    losses: Table = {"t": {"small": 0.2, "large": 0.1}}
    times: Table = {"t": {"small": 2.0, "large": 1.0}}
    with pytest.raises(InputError, match=r"fastest formats come to 1 ms per token, and target_ms allows 0\.5 ms"):
        allocate(losses, sizes, 30e6, time_limit(times, 0.5))
    with pytest.raises(InputError, match=r"fastest formats come to 3 ms per token, and target_ms allows 2\.5 ms"):
        allocate(losses, sizes, 30e6, time_limit(times, 2.5, 2.0))
    with pytest.raises(InputError, match="smallest formats come to 10 MB, and the budget allows 9 MB"):
        allocate(losses, sizes, 9e6, time_limit(times, 1.5))
    with pytest.raises(InputError) as both:
        allocate(losses, sizes, 15e6, time_limit(times, 1.5))
    message = str(both.value)
    assert "cannot both be met" in message
    assert "within target_ms the smallest formats come to 20 MB" in message
    assert "within the budget the fastest formats come to 2 ms per token" in message
    with pytest.raises(InputError, match=r"within target_ms the finest formats come to 0\.1"):
        allocate_for_loss({"t": {"small": 0.05, "large": 0.1}}, sizes, 0.07, time_limit(times, 1.5))


@pytest.mark.parametrize(("budget_share", "seed"), [(1.5, 5), (math.inf, 6)])
def test_no_trial_of_the_local_search_breaks_a_limit(budget_share: float, seed: int) -> None:
    losses, sizes, times = problem(12, seed)
    budget = budget_share * sum(min(row.values()) for row in sizes.values())
    fastest = sum(min(row.values()) for row in times.values())
    time = time_limit(times, 1.6 * fastest)
    limits = [byte_limit(sizes, budget), time]
    weights = dict(zip(losses, np.random.default_rng(1).uniform(0.1, 5, 12), strict=True))
    tried: list[tuple[dict[str, str], float]] = []

    def divergence(formats: dict[str, str]) -> float:
        found: float = sum(weights[name] * losses[name][format] for name, format in formats.items())
        tried.append((dict(formats), found))
        return found

    start = allocate(losses, sizes, budget, time)
    best, reached = improve(start, losses, limits, divergence, np.random.default_rng(0), 60, lambda _: None)
    assert len(tried) > 5
    assert all(total(sizes, found) <= budget and total(times, found) <= time.bound for found, _ in tried)
    assert reached == min(found for _, found in tried) <= tried[0][1]
    assert (best, reached) in tried


@pytest.mark.parametrize("budget_share", [1.4, math.inf])
def test_random_allocations_keep_both_limits_and_use_one_up(budget_share: float) -> None:
    _, sizes, times = problem(40, 2)
    budget = budget_share * sum(min(row.values()) for row in sizes.values())
    time = time_limit(times, 1.5 * sum(min(row.values()) for row in times.values()))
    limits = [byte_limit(sizes, budget), time]
    rng, smallest = np.random.default_rng(0), smallest_within(sizes, time)
    found = [random_allocation(limits, smallest, rng) for _ in range(3)]
    assert found[0] != found[1] != found[2]
    for formats in found:
        assert kept(limits, formats)
        larger = [
            formats | {name: other}
            for name, format in formats.items()
            for other in FORMATS
            if sizes[name][other] > sizes[name][format]
        ]
        assert not any(kept(limits, changed) for changed in larger)

"""Small moves from a good allocation, judged by the true divergence; and random allocations within the same limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgepress.compress.search.limits import Limit, Table

Formats = dict[str, str]
_SHORTLIST = 16


def improve(
    chosen: Formats,
    losses: Table,
    limits: Sequence[Limit],
    divergence: Callable[[Formats], float],
    rng: np.random.Generator,
    moves: int,
    advance: Callable[[int], None],
) -> tuple[Formats, float]:
    """Try ``moves`` neighbours one after the other, keep those of lower divergence; the best, and its divergence.

    A neighbour moves one matrix to a format that is smaller, or faster where there is a limit on the time, and spends
    what that frees; it is drawn from the moves that the prediction thinks least of a loss. All keep the limits.
    """
    best, reached = dict(chosen), divergence(chosen)
    advance(1)
    seen = {tuple(sorted(chosen.items()))}
    for _ in range(moves):
        trial = _neighbour(best, losses, limits, rng)
        key = tuple(sorted(trial.items()))
        if key not in seen:
            seen.add(key)
            found = divergence(trial)
            if found < reached:
                best, reached = trial, found
        advance(1)
    return best, reached


def random_allocation(limits: Sequence[Limit], start: Mapping[str, str], rng: np.random.Generator) -> Formats:
    """Raise matrices to larger formats at random while the limits last.

    Args:
        limits: that on the bytes first.
        start: the smallest formats that keep them.
        rng: draws the matrices and the formats.
    """
    chosen, sizes = dict(start), limits[0].table
    totals = [limit.total(chosen) for limit in limits]
    open_names = list(chosen)
    while open_names:
        name = open_names[int(rng.integers(len(open_names)))]
        format = chosen[name]
        larger = [other for other in sizes[name] if sizes[name][other] > sizes[name][format]]
        larger = [other for other in larger if _fits(limits, totals, name, format, other)]
        if not larger:
            open_names.remove(name)
            continue
        chosen[name] = larger[int(rng.integers(len(larger)))]
        before, totals = totals, [limit.total(chosen) for limit in limits]
        if any(now < then for now, then in zip(totals, before, strict=True)):  # larger and faster: room for others
            open_names = list(chosen)
    return chosen


def _neighbour(chosen: Formats, losses: Table, limits: Sequence[Limit], rng: np.random.Generator) -> Formats:
    trial, totals = dict(chosen), [limit.total(chosen) for limit in limits]
    down = [
        (losses[name][other] - losses[name][format], name, other)
        for name, format in trial.items()
        for other in losses[name]
        if any(limit.table[name][other] < limit.table[name][format] for limit in limits)
        and _fits(limits, totals, name, format, other)
    ]
    if down:
        _, name, other = sorted(down)[int(rng.integers(min(_SHORTLIST, len(down))))]
        trial[name] = other
        _spend(trial, losses, limits, rng, keep=name)
    return trial


def _spend(trial: Formats, losses: Table, limits: Sequence[Limit], rng: np.random.Generator, keep: str) -> None:
    """Move matrices to formats of lower loss, in place, while the limits last."""
    while True:
        totals = [limit.total(trial) for limit in limits]
        gains = [
            (_worth(losses[name][format] - losses[name][other], limits, name, format, other), name, other)
            for name, format in trial.items()
            for other in losses[name]
            if name != keep
            and losses[name][other] < losses[name][format]
            and _fits(limits, totals, name, format, other)
        ]
        if not gains:
            return
        _, name, other = sorted(gains, reverse=True)[int(rng.integers(min(4, len(gains))))]
        trial[name] = other


def _worth(gain: float, limits: Sequence[Limit], name: str, format: str, other: str) -> float:
    """What a move gains for the share that it takes of the scarcest limit; those that take nothing come first."""
    taken = max((limit.table[name][other] - limit.table[name][format]) / (limit.bound or 1.0) for limit in limits)
    return gain / taken if taken > 0 else np.inf


def _fits(limits: Sequence[Limit], totals: Sequence[float], name: str, format: str, other: str) -> bool:
    """Whether a matrix can move to another format within the limits."""
    return all(
        total + limit.table[name][other] - limit.table[name][format] <= limit.bound
        for limit, total in zip(limits, totals, strict=True)
    )

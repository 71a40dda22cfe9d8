"""Small moves from a good allocation, judged by the true divergence; and random allocations of the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Formats = dict[str, str]
Table = Mapping[str, Mapping[str, float]]
_SHORTLIST = 16


def improve(
    chosen: Formats,
    losses: Table,
    sizes: Table,
    budget_bytes: float,
    divergence: Callable[[Formats], float],
    rng: np.random.Generator,
    moves: int,
    advance: Callable[[int], None],
) -> tuple[Formats, float]:
    """Try ``moves`` neighbours one after the other, keep those of lower divergence; the best, and its divergence.

    A neighbour lowers one matrix to a smaller format and spends what that frees; it is drawn from the moves that the
    prediction thinks least of a loss.
    """
    best, reached = dict(chosen), divergence(chosen)
    advance(1)
    seen = {tuple(sorted(chosen.items()))}
    for _ in range(moves):
        trial = _neighbour(best, losses, sizes, budget_bytes, rng)
        key = tuple(sorted(trial.items()))
        if key not in seen:
            seen.add(key)
            found = divergence(trial)
            if found < reached:
                best, reached = trial, found
        advance(1)
    return best, reached


def random_allocation(sizes: Table, budget_bytes: float, rng: np.random.Generator) -> Formats:
    """Start from the smallest formats; raise matrices at random while the budget lasts."""
    chosen = {name: min(row, key=lambda format: row[format]) for name, row in sizes.items()}
    used = sum(sizes[name][format] for name, format in chosen.items())
    open_names = list(sizes)
    while open_names:
        name = open_names[int(rng.integers(len(open_names)))]
        room = budget_bytes - used + sizes[name][chosen[name]]
        larger = [format for format, size in sizes[name].items() if sizes[name][chosen[name]] < size <= room]
        if not larger:
            open_names.remove(name)
            continue
        format = larger[int(rng.integers(len(larger)))]
        used += sizes[name][format] - sizes[name][chosen[name]]
        chosen[name] = format
    return chosen


def _neighbour(chosen: Formats, losses: Table, sizes: Table, budget_bytes: float, rng: np.random.Generator) -> Formats:
    trial = dict(chosen)
    down = [
        (losses[name][other] - losses[name][format], name, other)
        for name, format in trial.items()
        for other in sizes[name]
        if sizes[name][other] < sizes[name][format]
    ]
    if down:
        _, name, other = sorted(down)[int(rng.integers(min(_SHORTLIST, len(down))))]
        trial[name] = other
        _spend(trial, losses, sizes, budget_bytes, rng, keep=name)
    return trial


def _spend(
    trial: Formats, losses: Table, sizes: Table, budget_bytes: float, rng: np.random.Generator, keep: str
) -> None:
    """Raise matrices, in place, while bytes are left."""
    while True:
        room = budget_bytes - sum(sizes[name][format] for name, format in trial.items())
        gains = [
            ((losses[name][format] - losses[name][other]) / (sizes[name][other] - sizes[name][format]), name, other)
            for name, format in trial.items()
            for other in sizes[name]
            if name != keep
            and 0 < sizes[name][other] - sizes[name][format] <= room
            and losses[name][other] < losses[name][format]
        ]
        if not gains:
            return
        _, name, other = sorted(gains, reverse=True)[int(rng.integers(min(4, len(gains))))]
        trial[name] = other

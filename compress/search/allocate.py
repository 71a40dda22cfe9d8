"""The formats of least predicted divergence under a budget of bytes: a multiple-choice knapsack, solved exactly.

    minimise Σ_T Σ_f loss_Tf z_Tf     subject to  Σ_f z_Tf = 1 for every T,   Σ_T Σ_f bytes_Tf z_Tf ≤ budget,   z binary

or the other way round: the fewest bytes under a bound on the predicted divergence. Either may have a second row,
Σ_T Σ_f ms_Tf z_Tf ≤ target_ms, from times measured on the device. Solved by HiGHS through ``scipy.optimize.milp``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from edgepress.compress.search.limits import Limit, Table, byte_limit, check_alone, kept, loss_limit
from edgepress.errors import EdgepressError, InputError

_TIME_LIMIT_S = 60
_INFEASIBLE = 2  # of scipy's OptimizeResult.status


def allocate(losses: Table, sizes: Table, budget_bytes: float, time: Limit | None = None) -> dict[str, str]:
    """The format of every tensor, of least total loss within the budget.

    Args:
        losses: tensor → format → predicted divergence.
        sizes: tensor → format → bytes, for the same tensors and formats.
        budget_bytes: for all of them together; may be infinite.
        time: a bound on their time as well.

    Raises:
        InputError: not even the smallest formats fit, or the fastest, or none does both.
    """
    return _choose(losses, [byte_limit(sizes, budget_bytes), *([time] if time else [])])


def allocate_for_loss(losses: Table, sizes: Table, bound: float, time: Limit | None = None) -> dict[str, str]:
    """The format of every tensor, of fewest bytes within a bound on the total loss, and one on the time if given.

    Raises:
        InputError: not even the finest formats are good enough, or the fastest fast enough, or none is both.
    """
    return _choose(sizes, [loss_limit(losses, bound), *([time] if time else [])])


def smallest_within(sizes: Table, time: Limit | None) -> dict[str, str]:
    """The format of every tensor, of fewest bytes within a bound on the time.

    Raises:
        InputError: not even the fastest formats are fast enough.
    """
    if time is None:
        return {name: min(row, key=lambda format: row[format]) for name, row in sizes.items()}
    return _choose(sizes, [time])


def _choose(objective: Table, limits: Sequence[Limit]) -> dict[str, str]:
    for limit in limits:
        check_alone(limit)
    chosen = _solve(objective, limits)
    if chosen is None or not kept(limits, chosen := _repaired(chosen, objective, limits)):
        raise InputError(_conflict(*limits))
    return chosen


def _solve(objective: Table, limits: Sequence[Limit]) -> dict[str, str] | None:
    """The best choice, within the solver's tolerance of a part in a million; None where there is none."""
    pairs = [(name, format) for name, row in objective.items() for format in row]
    cost = np.array([objective[name][format] for name, format in pairs])
    place = {name: row for row, name in enumerate(objective)}
    owner = np.array([place[name] for name, _ in pairs])
    once = csr_array((np.ones(len(pairs)), (owner, np.arange(len(pairs)))))
    # Scaled, since the solver's tolerances are absolute.
    rows = [[limit.table[name][format] / (limit.bound or 1.0) for name, format in pairs] for limit in limits]
    bounds = [1.0 if limit.bound else 0.0 for limit in limits]
    with _without_stdout():
        result = milp(
            cost / (cost.max() or 1.0),
            integrality=np.ones(len(pairs)),
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(once, 1, 1), LinearConstraint(np.array(rows), -np.inf, bounds)],
            options={"time_limit": _TIME_LIMIT_S, "mip_rel_gap": 1e-6},
        )
    if result.x is None and result.status != _INFEASIBLE:
        raise EdgepressError(f"no choice of formats found: {result.message}")
    if result.x is None:
        return None
    return {name: format for (name, format), taken in zip(pairs, result.x, strict=True) if taken > 0.5}


@contextmanager
def _without_stdout() -> Iterator[None]:
    """HiGHS, in SciPy 1.17, leaves a stray line on the process's stdout, which may belong to one JSON document."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _repaired(chosen: dict[str, str], objective: Table, limits: Sequence[Limit]) -> dict[str, str]:
    """Hold the limits exactly: the solver's tolerance may have let a part in a million through.

    One tensor at a time takes the cheapest of the formats that bring the excess down, until there is none.
    """
    totals = [limit.total(chosen) for limit in limits]
    while (excess := _excess(totals, limits)) > 0:
        steps = []
        for name, format in chosen.items():
            for other in objective[name]:
                changed = _after(totals, limits, name, format, other)
                if _excess(changed, limits) < excess:
                    steps.append((objective[name][other] - objective[name][format], name, other))
        if not steps:
            break
        _, name, other = min(steps)
        chosen = chosen | {name: other}
        totals = [limit.total(chosen) for limit in limits]
    return chosen


def _after(totals: list[float], limits: Sequence[Limit], name: str, format: str, other: str) -> list[float]:
    return [
        total + limit.table[name][other] - limit.table[name][format]
        for total, limit in zip(totals, limits, strict=True)
    ]


def _excess(totals: Sequence[float], limits: Sequence[Limit]) -> float:
    """By how much the limits are broken, as shares of them."""
    return sum(
        (total - limit.bound) / (limit.bound or 1.0)
        for total, limit in zip(totals, limits, strict=True)
        if total > limit.bound
    )


def _conflict(first: Limit, second: Limit) -> str:
    """Each limit can be kept alone, and both together cannot: what either costs the other."""
    found = []
    for limit, other in ((first, second), (second, first)):
        best = _solve(limit.table, [other])
        assert best is not None, "a limit that can be kept alone"
        reached = limit.total(_repaired(best, limit.table, [other]))
        found.append(f"within {other.name} the {limit.best} formats come to {limit.words(reached)}")
    return (
        f"{first.name} ({first.words(first.bound)}) and {second.name} ({second.words(second.bound)}) cannot both be "
        f"met: {'; '.join(found)}. Raise one of them, or add formats to 'choices'"
    )

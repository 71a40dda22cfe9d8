"""The formats of least predicted divergence under a budget of bytes: a multiple-choice knapsack, solved exactly.

    minimise Σ_T Σ_f loss_Tf z_Tf     subject to  Σ_f z_Tf = 1 for every T,   Σ_T Σ_f bytes_Tf z_Tf ≤ budget,   z binary

or the other way round: the fewest bytes under a bound on the predicted divergence. Solved by HiGHS through
``scipy.optimize.milp``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from edgepress.errors import InputError

Table = Mapping[str, Mapping[str, float]]
_TIME_LIMIT_S = 60


def allocate(losses: Table, sizes: Table, budget_bytes: float) -> dict[str, str]:
    """The format of every tensor, of least total loss within the budget.

    Args:
        losses: tensor → format → predicted divergence.
        sizes: tensor → format → bytes, for the same tensors and formats.
        budget_bytes: for all of them together.

    Raises:
        InputError: not even the smallest formats fit.
    """
    least = _least(sizes)
    if least > budget_bytes:
        raise InputError(
            f"the smallest formats take {least / 1e6:.3f} MB, {(least - budget_bytes) / 1e6:.3f} MB more than the "
            "budget leaves for them; raise the budget or add smaller formats to 'choices'"
        )
    return _choose(losses, sizes, budget_bytes)


def allocate_for_loss(losses: Table, sizes: Table, bound: float) -> dict[str, str]:
    """The format of every tensor, of fewest bytes within a bound on the total loss.

    Raises:
        InputError: not even the finest formats are good enough.
    """
    least = _least(losses)
    if least > bound:
        raise InputError(
            f"the finest formats are predicted to diverge by {least:.3g}, and max_kld is {bound:.3g}; "
            "raise max_kld or add finer formats to 'choices'"
        )
    return _choose(sizes, losses, bound)


def _least(table: Table) -> float:
    return sum(min(row.values()) for row in table.values())


def _choose(objective: Table, constraint: Table, limit: float) -> dict[str, str]:
    pairs = [(name, format) for name, row in objective.items() for format in row]
    cost = np.array([objective[name][format] for name, format in pairs])
    weight = np.array([constraint[name][format] for name, format in pairs])
    place = {name: row for row, name in enumerate(objective)}
    owner = np.array([place[name] for name, _ in pairs])
    once = csr_array((np.ones(len(pairs)), (owner, np.arange(len(pairs)))))
    # Scaled, since the solver's tolerances are absolute.
    scale = cost.max() or 1.0
    result = milp(
        cost / scale,
        integrality=np.ones(len(pairs)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(once, 1, 1), LinearConstraint(weight[None] / limit, -np.inf, 1)],
        options={"time_limit": _TIME_LIMIT_S, "mip_rel_gap": 1e-6},
    )
    assert result.x is not None, result.message
    chosen = {name: format for (name, format), taken in zip(pairs, result.x, strict=True) if taken > 0.5}
    return _within(chosen, objective, constraint, limit)


def _within(chosen: dict[str, str], objective: Table, constraint: Table, limit: float) -> dict[str, str]:
    """Hold the limit exactly: the solver's tolerance may have let a part in a million through."""
    total = sum(constraint[name][format] for name, format in chosen.items())
    while total > limit:
        steps = [
            (objective[name][other] - objective[name][format], name, other)
            for name, format in chosen.items()
            for other in constraint[name]
            if constraint[name][other] < constraint[name][format]
        ]
        _, name, other = min(steps)
        total += constraint[name][other] - constraint[name][chosen[name]]
        chosen[name] = other
    return chosen

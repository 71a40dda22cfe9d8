"""Limits that a choice of formats keeps: a sum over the matrices that stays at or below a bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from edgepress.errors import InputError

Table = Mapping[str, Mapping[str, float]]
Formats = Mapping[str, str]


class Limit(NamedTuple):
    """``Σ table[matrix][its format] ≤ bound``, and the words for it.

    ``name`` is what the recipe calls the bound; ``best`` and ``better`` say which formats come to less (smallest,
    smaller); ``unit`` and ``scale`` turn a sum into what a person reads. ``elsewhere`` is what matrices that are not in
    the table add to both sides, for the words only.
    """

    name: str
    table: Table
    bound: float
    best: str
    better: str
    unit: str
    scale: float = 1.0
    elsewhere: float = 0.0

    def total(self, formats: Formats) -> float:
        """The sum for a choice."""
        return sum(self.table[name][format] for name, format in formats.items())

    @property
    def least(self) -> float:
        """The lowest sum of any choice."""
        return sum(min(row.values()) for row in self.table.values())

    def words(self, value: float) -> str:
        """A sum, the other matrices' part included, for a person."""
        return f"{(value + self.elsewhere) * self.scale:.4g} {self.unit}"


def byte_limit(sizes: Table, bound: float) -> Limit:
    """At most ``bound`` bytes."""
    return Limit("the budget", sizes, bound, "smallest", "smaller", "MB", 1e-6)


def loss_limit(losses: Table, bound: float) -> Limit:
    """At most ``bound`` nats per token of predicted divergence."""
    return Limit("max_kld", losses, bound, "finest", "finer", "nats per token")


def time_limit(times: Table, target_ms: float, elsewhere_ms: float = 0.0) -> Limit:
    """At most ``target_ms`` per decoded token, of which other matrices take ``elsewhere_ms``."""
    bound = target_ms - elsewhere_ms
    return Limit("target_ms", times, bound, "fastest", "faster", "ms per token", elsewhere=elsewhere_ms)


def kept(limits: Sequence[Limit], formats: Formats) -> bool:
    """Whether a choice keeps all limits."""
    return all(limit.total(formats) <= limit.bound for limit in limits)


def check_alone(limit: Limit) -> None:
    """Refuse a limit that no choice keeps, even alone.

    Raises:
        InputError: says what the best choice comes to.
    """
    if limit.least > limit.bound:
        raise InputError(
            f"the {limit.best} formats come to {limit.words(limit.least)}, and {limit.name} allows "
            f"{limit.words(limit.bound)}; raise {limit.name} or add {limit.better} formats to 'choices'"
        )

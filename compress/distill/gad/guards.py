"""What ends a training against a discriminator before its time; each says why, in words.

    plateau     the discriminator gets neither better nor worse: there is nothing more to learn from it
    hacking     the reward rises while a judge that nobody is trained by is convinced less often
    diversity   the answers repeat themselves
    length      the answers do not end

The student is the best state in any case: a guard saves time, and says what went wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgepress.compress.distill.gad.config import Guards
from edgepress.compress.distill.gad.progress import Ending, GadCheck

Checks = Sequence[GadCheck]
_ERRORS = 2.0


def fired(checks: Checks, teachers_distinct: float, guards: Guards) -> tuple[Ending, ...]:
    """The guards that the last check sets off.

    Args:
        checks: all so far, that at the start first.
        teachers_distinct: distinct bigrams of as many answers of the teacher.
        guards: their bounds.
    """
    found = (
        plateau(checks, guards),
        hacking(checks, guards),
        diversity(checks, teachers_distinct, guards),
        length(checks, guards),
    )
    return tuple(ending for ending in found if ending)


def plateau(checks: Checks, guards: Guards) -> Ending | None:
    """The discriminator's accuracy has not moved for a while. The check at the start, before it was trained, is out."""
    lately = [check.accuracy for check in checks[1:]][-guards.patience - 1 :]
    if not guards.patience or len(lately) <= guards.patience or max(lately) - min(lately) > guards.plateau:
        return None
    values = ", ".join(f"{value:.3f}" for value in lately)
    return Ending(
        "plateau",
        f"the discriminator's accuracy on held-out prompts has moved by no more than {guards.plateau:g} for "
        f"{guards.patience} checks ({values})",
    )


def hacking(checks: Checks, guards: Guards) -> Ending | None:
    """The reward is higher than at the best check, and the judge's win rate much lower."""
    now, best = checks[-1], max(checks, key=lambda check: check.win_rate)
    before = next((check for check in checks[1:] if check is best), checks[1] if len(checks) > 1 else best)
    if now.reward is None or before.reward is None or now.reward <= before.reward:
        return None
    noise = _ERRORS * (now.win_rate_se**2 + best.win_rate_se**2) ** 0.5
    if best.win_rate - now.win_rate <= max(guards.win_rate_drop, noise):
        return None
    return Ending(
        "hacking",
        f"the reward rose from {before.reward:.3f} to {now.reward:.3f} while the judge's win rate fell from "
        f"{best.win_rate:.3f} to {now.win_rate:.3f}: the discriminator is deceived",
    )


def diversity(checks: Checks, teachers_distinct: float, guards: Guards) -> Ending | None:
    """Too few different bigrams."""
    floor = guards.diversity_floor * min(teachers_distinct, checks[0].distinct)
    if checks[-1].distinct >= floor:
        return None
    return Ending(
        "diversity",
        f"{checks[-1].distinct:.3f} of the answers' bigrams are different ones, less than {floor:.3f} (the teacher's "
        f"{teachers_distinct:.3f}, the student's at the start {checks[0].distinct:.3f}): the answers repeat themselves",
    )


def length(checks: Checks, guards: Guards) -> Ending | None:
    """Too many answers without an end."""
    most = max(guards.most_unfinished, checks[0].unfinished)
    if checks[-1].unfinished <= most:
        return None
    share = f"{checks[-1].unfinished:.3f} of the answers do not end where the teacher's does"
    return Ending("length", f"{share}, more than {most:.3f}")

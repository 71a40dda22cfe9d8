"""How far a training against a discriminator has come."""

from __future__ import annotations

from typing import Literal

import msgspec

GuardName = Literal["plateau", "hacking", "diversity", "length"]


class GadStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step.

    discriminator_loss  before it, nats per pair
    reward              mean of D(x, y_i) - D(x, y_teacher) after the discriminator's step
    unfinished          share of the answers that were fined for it
    answer_tokens       mean length of the answers
    kl                  divergence from the warmed-up student, nats per token; None where the student was not trained
    """

    discriminator_loss: float
    reward: float
    unfinished: float
    answer_tokens: float
    kl: float | None = None


class GadCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The student on prompts that nothing was trained on.

    step           so many steps were done
    win_rate       how often a judge takes the student's answer for the teacher's, 0 to 1, with its standard error over
                   prompts; a half is all that is to be had
    accuracy       how often the discriminator that is trained against tells the teacher's
    reward         mean of D(x, y_i) - D(x, y_teacher) over the student's steps since the last check; None at the start
    distinct       distinct bigrams of one answer to each prompt
    self_bleu      of the answers to a prompt
    unfinished     share of answers that do not end where the teacher's does
    cross_entropy  with the teacher's answers, nats per token
    """

    step: int
    win_rate: float
    win_rate_se: float
    accuracy: float
    reward: float | None
    distinct: float
    self_bleu: float
    unfinished: float
    cross_entropy: float


class Ending(msgspec.Struct, frozen=True):
    """A guard that ended the training, and why, in words."""

    guard: GuardName
    why: str


class GadProgress(msgspec.Struct, frozen=True, kw_only=True):
    """Steps, checks, what ended it before its time, and how long the steps took."""

    rows: tuple[GadStep, ...] = ()
    checks: tuple[GadCheck, ...] = ()
    endings: tuple[Ending, ...] = ()
    seconds: float = 0.0

    @property
    def steps(self) -> int:
        """Steps done."""
        return len(self.rows)

    @property
    def best(self) -> GadCheck:
        """The check with the highest win rate; the first of equal ones."""
        return max(self.checks, key=lambda check: check.win_rate)

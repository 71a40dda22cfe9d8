"""What a training against a discriminator leaves for its report.

``gad.json`` is the same however often the run was killed; ``measurements/speed.json`` is of this machine.
"""

from __future__ import annotations

import msgspec

from edgepress.benchmarks.training_record import ModelSize

GAD_RECORD_FILE = "gad.json"


class GadStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step: loss of the discriminator in nats per pair, reward, share of fined answers, their mean length, and the
    divergence from the warmed-up student in nats per token, None where the student was not trained.
    """

    discriminator_loss: float
    reward: float
    unfinished: float
    answer_tokens: float
    kl: float | None


class GadCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Measures on held-out prompts after so many steps: the judge's win rate and its standard error, the trained
    discriminator's accuracy, mean reward since the last check, distinct bigrams, self-BLEU, share of answers that do
    not end, and cross-entropy with the teacher's answers in nats per token.
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

    guard: str
    why: str


class WarmUpRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Steps of cross-entropy with the teacher's answers, and the held-out cross-entropy before and after them."""

    steps: int
    before: float
    after: float


class GadRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What it brought.

    student              how large it is
    answers              of the teacher, trained on
    answer_tokens        in them
    held_out_answers     half of them teach the judge, half are judged by
    teachers_distinct    distinct bigrams of the teacher's answers among those
    warm_up              None where there was none
    discriminator_steps  of the discriminator alone
    written_tokens       by the student in all steps
    steps, checks        in order; the first check is the warmed-up student's
    endings              what ended it before its time
    """

    student: ModelSize
    answers: int
    answer_tokens: int
    held_out_answers: int
    teachers_distinct: float
    warm_up: WarmUpRecord | None
    discriminator_steps: int
    written_tokens: int
    steps: tuple[GadStep, ...]
    checks: tuple[GadCheck, ...]
    endings: tuple[Ending, ...]

    @property
    def kept(self) -> GadCheck:
        """The check that the student is from: the first with the highest win rate."""
        return max(self.checks, key=lambda check: check.win_rate)

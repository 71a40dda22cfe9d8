"""What generative adversarial distillation can be told."""

from __future__ import annotations

from typing import Annotated

import msgspec

from edgepress.compress.bounds import Count, Natural, Positive, Seed, Share, Weight


class WarmUp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Cross-entropy with the teacher's answers, before anything adversarial. Alone it is sequence-level distillation.

    passes   over the answers; 0 takes the student as it is
    batch    answers of a step
    rate     the highest learning rate, before a cosine to 0
    checks   of the cross-entropy on held-out answers; the best state goes on
    """

    passes: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 1.0
    batch: Count = 16
    rate: Positive = 1e-3
    checks: Count = 10


class Guards(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ends the training before its time.

    patience         checks over which the discriminator's accuracy on held-out prompts moves by no more than
                     ``plateau``; 0 never ends for that
    win_rate_drop    the judge's win rate falls by more than that below the best, and by more than two standard errors,
                     while the reward is higher than it was then: the reward is being hacked
    diversity_floor  share of the distinct bigrams of the teacher's answers, or of the student's at the start where
                     those are fewer, that the student's answers must have
    most_unfinished  share of the answers that may be unfinished where the teacher's is finished, or what it was at the
                     start where that is more
    """

    patience: Natural = 4
    plateau: Share = 0.02
    win_rate_drop: Share = 0.1
    diversity_floor: Share = 0.7
    most_unfinished: Share = 0.5


class Adversarial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How student and discriminator are trained against each other.

    steps                of both, one each
    discriminator_steps  of the discriminator alone, before
    prompts              of a step
    samples              answers that the student writes to each
    answer_tokens        at most; the teacher's answers are cut there as well, so that length alone tells nothing
    rate                 learning rate of the student
    discriminator_rate   learning rate of the discriminator and of the judge
    passes               steps of the student on the same samples; only from the second on does ``clip`` do anything
    clip                 how far the probability of a token may move, as a share, before its gradient is cut
    kl                   weight of the divergence from the warmed-up student
    unfinished_penalty   what an unfinished answer loses, in standard deviations of the reward, where the teacher's is
                         finished
    checks               on held-out prompts, evenly over the steps; one more at the start
    judge_steps          of the judge, anew for every check
    piece_tokens         tokens that gradients are taken of at a time, which bounds the memory
    save_steps           steps between saved states
    seed                 of the order of the prompts, of what is held out and of all samples
    """

    steps: Natural = 200
    discriminator_steps: Natural = 50
    prompts: Count = 8
    samples: Annotated[int, msgspec.Meta(ge=2)] = 4
    answer_tokens: Annotated[int, msgspec.Meta(ge=2)] = 128
    rate: Positive = 1e-5
    discriminator_rate: Positive = 1e-5
    passes: Count = 1
    clip: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.2
    kl: Weight = 0.01
    unfinished_penalty: Weight = 1.0
    checks: Count = 10
    judge_steps: Count = 50
    piece_tokens: Count = 2048
    save_steps: Count = 10
    seed: Seed = 0

    @property
    def all_steps(self) -> int:
        """Of the discriminator."""
        return self.discriminator_steps + self.steps

    @property
    def check_steps(self) -> frozenset[int]:
        """Steps after which a check is due, that at the start apart."""
        parts = range(1, self.checks + 1)
        return frozenset(self.discriminator_steps + round(self.steps * part / self.checks) for part in parts)


class GadSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A settings file."""

    warm_up: WarmUp = WarmUp()
    gad: Adversarial = Adversarial()
    guards: Guards = Guards()

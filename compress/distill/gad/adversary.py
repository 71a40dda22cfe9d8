"""The training: the discriminator learns to tell the answers apart, the student to be taken for the teacher.

    for every step:   y_i ~ G(· | x)                           m answers to each of some prompts
                      D ← a step down   mean of -log σ(D(x, y_teacher) - D(x, y_i))
                      r_i = D(x, y_i) - D(x, y_teacher)        whitened over the step, less a fine for not ending
                      G ← a step up     Σ_t A_i log π          A_i = (r_i - mean) / std over the answers to one prompt

The discriminator has some steps alone before. Subtracting the teacher's score leaves the advantages as they are, and
makes rewards comparable from step to step: D is known up to a constant for each prompt. Everything but parameters and
moments is a function of step and seed, so that a run that is killed and started again ends in the same bytes. What
comes back is the state of the check with the judge's highest win rate (:mod:`~.judge`), the warmed-up student included.

Source: arXiv 2511.10643, which has no judge, no whitening, no fine and no guards.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import torch

from edgepress.compress.distill.gad.answers import Block, block, write_answers
from edgepress.compress.distill.gad.config import GadSettings
from edgepress.compress.distill.gad.discriminator import Discriminator, discriminator_step
from edgepress.compress.distill.gad.guards import fired
from edgepress.compress.distill.gad.judge import HeldOut, unfinished
from edgepress.compress.distill.gad.learner import Learner
from edgepress.compress.distill.gad.losses import group_advantages, whitened
from edgepress.compress.distill.gad.pairs import Pair
from edgepress.compress.distill.gad.policy import log_probs_of, policy_step
from edgepress.compress.distill.gad.progress import GadCheck, GadProgress, GadStep
from edgepress.compress.distill.gad.warm_up import as_block
from edgepress.compress.distill.train import order
from edgepress.compress.distill.trainer_state import Tensors, TrainerState
from edgepress.errors import EdgepressError
from edgepress.progress import progress as progress_bar
from edgepress.progress import say

_SAMPLES = 10  # of random numbers, beside the trainer's and the judge's


class Adversary:
    """A student and its discriminator, in memory."""

    def __init__(
        self,
        student: Any,
        reference: Any,
        pairs: list[Pair],
        held_out: HeldOut,
        settings: GadSettings,
        stop_ids: frozenset[int],
    ) -> None:
        """Take a student; its parameters are trained in place.

        Args:
            student: transformers' causal language model, float32, warmed up.
            reference: another copy of it.
            pairs: to train on.
            held_out: measures.
            settings: how.
            stop_ids: tokens that end an answer.
        """
        self._student, self._reference = student.eval(), reference.requires_grad_(False)
        self._pairs, self._held_out, self._stop_ids = pairs, held_out, stop_ids
        self._settings, self._gad = settings, settings.gad
        self._discriminator = Discriminator(reference)
        self._of_student = Learner(student, settings.gad.rate)
        self._of_discriminator = Learner(self._discriminator, settings.gad.discriminator_rate)

    def train(self, state: TrainerState[GadProgress]) -> GadProgress:
        """Train until a guard ends it or to the end; the student ends in its best state.

        Args:
            state: where the run is saved, and goes on from where there is one.
        """
        run = self._resume(state) or self._check(GadProgress(), state)
        steps = self._gad.all_steps if self._gad.steps else 0
        with progress_bar("gad", steps, done=run.steps, unit="steps") as advance:
            while run.steps < steps and not run.endings:
                run = self._timed_step(run)
                advance(1)
                if run.steps in self._gad.check_steps:
                    run = self._check(run, state)
                    say(_words(run, steps))
                if run.steps % self._gad.save_steps == 0 or run.steps == steps or run.endings:
                    state.save(run, self._tensors())
        self._of_student.restore(state.load_best(run))
        return run

    def step(self, number: int) -> GadStep:
        """One step of the discriminator, and from ``discriminator_steps`` on of the student.

        Args:
            number: of the step, from 0; gives prompts and samples.
        """
        pairs = self._prompts(number)
        answers = self._write(pairs, number)
        teachers, students = as_block(pairs), block(_repeated(pairs, self._gad.samples), answers)
        piece = self._gad.piece_tokens
        loss = discriminator_step(self._discriminator, self._of_discriminator, teachers, students, piece)
        scores = self._discriminator.scores(students, piece).reshape(len(pairs), -1)
        rewards = scores - self._discriminator.scores(teachers, piece)[:, None]
        fined = unfinished(pairs, answers, self._stop_ids).reshape(rewards.shape)
        away = None
        if number >= self._gad.discriminator_steps:
            away = self._follow(students, whitened(rewards) - self._gad.unfinished_penalty * fined)
        reward = float(rewards.mean())
        if not all(map(math.isfinite, (loss, reward, away or 0.0))):
            raise EdgepressError(
                f"training diverged in step {number + 1}: the discriminator's loss is {loss:g}, the reward {reward:g}; "
                "lower gad.rate or gad.discriminator_rate"
            )
        return GadStep(
            discriminator_loss=loss,
            reward=reward,
            unfinished=float(fined.mean()),
            answer_tokens=sum(map(len, answers)) / len(answers),
            kl=away,
        )

    def _follow(self, students: Block, rewards: torch.Tensor) -> float:
        """The student's steps on answers that it wrote; the divergence from the reference before them."""
        piece, advantages = self._gad.piece_tokens, group_advantages(rewards).flatten()
        old = log_probs_of(self._student, students, piece) if self._gad.passes > 1 else None
        away = [
            policy_step(
                self._student,
                self._reference,
                self._of_student,
                students,
                advantages,
                old_log_probs=old,
                clip=self._gad.clip,
                kl=self._gad.kl,
                piece_tokens=piece,
            )
            for _ in range(self._gad.passes)
        ]
        return away[0]

    def _prompts(self, number: int) -> list[Pair]:
        each = min(self._gad.prompts, len(self._pairs))
        return [self._pairs[place] for place in order(number, each, len(self._pairs), self._gad.seed).tolist()]

    def _write(self, pairs: Sequence[Pair], number: int) -> list[list[int]]:
        seed = int(np.random.default_rng((self._gad.seed, _SAMPLES, number)).integers(2**62))
        generator, prompts = torch.Generator().manual_seed(seed), _repeated(pairs, self._gad.samples)
        return write_answers(self._student, prompts, self._gad.answer_tokens, self._stop_ids, generator)

    def _timed_step(self, run: GadProgress) -> GadProgress:
        started = time.monotonic()
        rows = (*run.rows, self.step(run.steps))
        return msgspec.structs.replace(run, rows=rows, seconds=run.seconds + time.monotonic() - started)

    def _check(self, run: GadProgress, state: TrainerState[GadProgress]) -> GadProgress:
        rows = run.rows[run.checks[-1].step :] if run.checks else ()
        lately = [row.reward for row in rows if row.kl is not None]
        reward = sum(lately) / len(lately) if lately else None
        check = self._held_out.check(self._student, self._discriminator, run.steps, reward)
        checks: tuple[GadCheck, ...] = (*run.checks, check)
        endings = fired(checks, self._held_out.teachers_distinct, self._settings.guards)
        checked = msgspec.structs.replace(run, checks=checks, endings=endings)
        if checked.best is check:
            state.save_best(checked, self._of_student.weights())
        return checked

    def _tensors(self) -> Tensors:
        named = (("student", self._of_student), ("discriminator", self._of_discriminator))
        return {f"{owner}:{name}": value for owner, learner in named for name, value in learner.tensors().items()}

    def _resume(self, state: TrainerState[GadProgress]) -> GadProgress | None:
        saved = state.load()
        if saved is None:
            return None
        run, tensors = saved
        for owner, learner in (("student:", self._of_student), ("discriminator:", self._of_discriminator)):
            mine = {name.removeprefix(owner): value for name, value in tensors.items() if name.startswith(owner)}
            learner.restore(mine)
        say(f"training goes on after step {run.steps}")
        return run


def _repeated(pairs: Sequence[Pair], samples: int) -> list[tuple[int, ...]]:
    return [pair.prompt for pair in pairs for _ in range(samples)]


def _words(run: GadProgress, steps: int) -> str:
    check = run.checks[-1]
    told = "; ".join(f"ended by {ending.guard}: {ending.why}" for ending in run.endings)
    return (
        f"step {run.steps} of {steps}: win rate {check.win_rate:.3f} ± {check.win_rate_se:.3f}, discriminator's "
        f"accuracy {check.accuracy:.3f}, distinct bigrams {check.distinct:.3f}{'; ' if told else ''}{told}"
    )

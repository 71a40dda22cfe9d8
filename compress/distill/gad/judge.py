"""How the student does on held-out prompts, by a judge that it is not trained against.

The judge is a discriminator like the other, begun anew at every check from the warmed-up student, and trained for as
many steps on one half of the held-out prompts; the other half is judged. Its win rate is how often it takes the
student's answer for the teacher's, ties half: a two-sample test with a classifier (arXiv 1610.06545). It is the same
test at every check, on the same prompts in the same order, and what deceives one discriminator does not deceive another
that is trained on just that.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from edgepress.compress.distill.gad.answers import block, write_answers
from edgepress.compress.distill.gad.config import Adversarial
from edgepress.compress.distill.gad.discriminator import Discriminator, discriminator_step
from edgepress.compress.distill.gad.diversity import distinct_n, self_bleu
from edgepress.compress.distill.gad.learner import Learner
from edgepress.compress.distill.gad.pairs import Pair
from edgepress.compress.distill.gad.progress import GadCheck
from edgepress.compress.distill.gad.warm_up import as_block, cross_entropy
from edgepress.compress.distill.train import order

_JUDGES_SAMPLES, _JUDGES_ORDER, _SAMPLES = 11, 12, 13  # of random numbers, beside the trainer's


class Rate(NamedTuple):
    """A share of wins and its standard error over prompts."""

    value: float
    se: float


class HeldOut:
    """Measures a student and its discriminator."""

    def __init__(
        self, warmed_up: Any, pairs: list[Pair], settings: Adversarial, stop_ids: frozenset[int], batch: int = 64
    ) -> None:
        """Take what never changes.

        Args:
            warmed_up: transformers' causal language model, where the judge begins.
            pairs: of at least four prompts, every other of which teaches the judge.
            settings: samples, steps and seeds.
            stop_ids: tokens that end an answer.
            batch: answers that are written at a time.
        """
        self._warmed_up, self._settings, self._stop_ids, self._batch = warmed_up, settings, stop_ids, batch
        self._teaching, self._judged = halves(pairs)
        self.teachers_distinct = distinct_n([pair.answer for pair in self._judged], 2)

    def check(self, student: Any, discriminator: Discriminator, step: int, reward: float | None) -> GadCheck:
        """All measures of a student as it is."""
        samples, piece = self._settings.samples, self._settings.piece_tokens
        answers = self._write(student, self._judged, _SAMPLES)
        groups = [answers[start : start + samples] for start in range(0, len(answers), samples)]
        won = self._win_rate(self._judge(student), answers)
        return GadCheck(
            step=step,
            win_rate=won.value,
            win_rate_se=won.se,
            accuracy=1 - self._win_rate(discriminator, answers).value,
            reward=reward,
            distinct=distinct_n([group[0] for group in groups], 2),
            self_bleu=self_bleu(groups),
            unfinished=float(unfinished(self._judged, answers, self._stop_ids).mean()),
            cross_entropy=cross_entropy(student, as_block(self._judged), piece),
        )

    def _judge(self, student: Any) -> Discriminator:
        """A new one, trained on this student's answers."""
        judge, settings = Discriminator(self._warmed_up), self._settings
        learner, samples = Learner(judge, settings.discriminator_rate), settings.samples
        answers = self._write(student, self._teaching, _JUDGES_SAMPLES)
        each = min(settings.prompts, len(self._teaching))
        for step in range(settings.judge_steps):
            chosen = order(step, each, len(self._teaching), settings.seed + _JUDGES_ORDER).tolist()
            pairs = [self._teaching[place] for place in chosen]
            ours = [answers[place * samples + sample] for place in chosen for sample in range(samples)]
            students = block([pair.prompt for pair in pairs for _ in range(samples)], ours)
            discriminator_step(judge, learner, as_block(pairs), students, settings.piece_tokens)
        return judge

    def _write(self, student: Any, pairs: list[Pair], purpose: int) -> list[list[int]]:
        """As many answers to each prompt, those to one in a row."""
        prompts = [pair.prompt for pair in pairs for _ in range(self._settings.samples)]
        seed = int(np.random.default_rng((self._settings.seed, purpose)).integers(2**62))
        generator, found = torch.Generator().manual_seed(seed), []
        for start in range(0, len(prompts), self._batch):
            part = prompts[start : start + self._batch]
            found += write_answers(student, part, self._settings.answer_tokens, self._stop_ids, generator)
        return found

    def _win_rate(self, judge: Discriminator, answers: list[list[int]]) -> Rate:
        prompts = [pair.prompt for pair in self._judged for _ in range(self._settings.samples)]
        piece = self._settings.piece_tokens
        ours = judge.scores(block(prompts, answers), piece).reshape(len(self._judged), -1)
        return win_rate(judge.scores(as_block(self._judged), piece), ours, [pair.prompt for pair in self._judged])


def halves(pairs: list[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Every other prompt with all its answers, and the others."""
    first = set(list(dict.fromkeys(pair.prompt for pair in pairs))[::2])
    return [pair for pair in pairs if pair.prompt in first], [pair for pair in pairs if pair.prompt not in first]


def win_rate(teacher_scores: torch.Tensor, student_scores: torch.Tensor, prompts: Sequence[Hashable]) -> Rate:
    """How often the student's score is the higher one, ties half; the error is that of the prompts' means.

    Args:
        teacher_scores: (answers,), at least two.
        student_scores: (answers, samples).
        prompts: of each answer, at least two different ones; the answers to one are no independent draws.
    """
    margins = (student_scores - teacher_scores[:, None]).double()
    wins = ((margins.sign() + 1) / 2).mean(1)
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
    group = torch.tensor([places[prompt] for prompt in prompts])
    # Of a mean over groups of unlike size, as of a ratio.
    apart = torch.bincount(group, wins - wins.mean())
    scale = len(places) / (len(places) - 1)
    return Rate(float(wins.mean()), float((scale * apart.square().sum()).sqrt() / len(wins)))


def unfinished(pairs: list[Pair], answers: list[list[int]], stop_ids: frozenset[int]) -> torch.Tensor:
    """Answers that do not end where the teacher's does: 1, else 0; float, (answers,), as many to each pair in a row."""
    each = len(answers) // len(pairs)
    ends = [answer[-1] in stop_ids for answer in answers]
    return torch.tensor([float(pairs[place // each].finished and not end) for place, end in enumerate(ends)])

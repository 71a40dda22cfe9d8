"""The trainer: one student, composable losses, any of the three sources of targets.

    L = Σ divergences + w_hard · CE + w_hidden(step) · L_hidden          means over the learned tokens of a step
    w_hidden(step) = w_hidden · min(1, 3 (1 - step / steps))

AdamW (arXiv 1711.05101) with a linear warm-up and a cosine decay to zero, gradients clipped to norm 1. A step gathers
gradients over pieces of the batch. Everything but parameters and moments is a function of the step and the seed, so
that a run that is killed and started again has the loss curve, to the bit, of one that was not. What comes back is the
state of the best held-out divergence, the start included, or with ``keep: last`` the last one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.checkpoint import checkpoint

from edgepress.compress.distill.config import Loss, Training
from edgepress.compress.distill.hidden_states import Projectors, hidden_state_loss, uniform_pairs
from edgepress.compress.distill.losses import hard_label_cross_entropy
from edgepress.compress.distill.on_policy import OnPolicy
from edgepress.compress.distill.precision import in_bfloat16, multiplying
from edgepress.compress.distill.targets import Batch, Targets
from edgepress.compress.distill.text import Text
from edgepress.compress.distill.through_head import mean_loss
from edgepress.compress.distill.trainer_state import Check, Progress, Tensors, TrainerState
from edgepress.errors import EdgepressError
from edgepress.progress import progress as progress_bar
from edgepress.progress import say

_BETAS = (0.9, 0.95)
_LARGEST_NORM = 1.0
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Trainer:
    """A student in training, in memory."""

    def __init__(
        self,
        student: Any,
        targets: Targets,
        text: Text,
        loss: Loss,
        training: Training,
        teacher_size: tuple[int, int],
        on_policy: OnPolicy | None = None,
    ) -> None:
        """Take a student; its parameters are trained in place.

        Args:
            student: transformers' causal language model, float32.
            targets: what to learn at the tokens of ``text``.
            text: to train on.
            loss: what counts.
            training: how.
            teacher_size: depth and width of the teacher, for hidden states.
            on_policy: lets the student write some of the text.
        """
        self._student, self._targets, self._text = student.eval(), targets, text
        self._loss, self._training, self._on_policy = loss, training, on_policy
        self._tokens = torch.from_numpy(text.tokens.astype(np.int64))
        self._learned = torch.from_numpy(text.learned[:, 1:])
        config = student.config
        pairs = uniform_pairs(config.num_hidden_layers, teacher_size[0]) if loss.hidden else ()
        self._projectors = Projectors(pairs, config.hidden_size, teacher_size[1], training.seed)
        student.requires_grad_(True)
        if training.checkpointing:
            _keep_no_activations(student)
        self._optimizer = self._adamw()

    def train(self, state: TrainerState, held_out: Callable[[Any], float], judged_by: str = "divergence") -> Progress:
        """Train to the end, from the saved state where there is one; the student ends in its best state, or the last.

        Args:
            state: where the run is saved.
            held_out: judges the student as it is, in nats; less is better.
            judged_by: what that is, for messages.
        """
        run = self._resume(state) or self._check(Progress(), state, held_out, judged_by)
        steps, each = self._training.steps, self._step_tokens
        checks = {round(steps * (part + 1) / self._training.checks) for part in range(self._training.checks)}
        with progress_bar("distil", steps * each, done=run.steps * each, unit="tokens") as advance:
            while run.steps < steps and not self._should_stop(run):
                run = self._timed_step(run)
                advance(each)
                if run.steps in checks:
                    run = self._check(run, state, held_out, judged_by)
                    say(_words(run, steps, each, judged_by))
                if run.steps % self._training.save_steps == 0 or run.steps == steps:
                    state.save(run, self._tensors())
        if self._training.keep == "best":
            self._restore(state.load_best(run))
        return run

    def _timed_step(self, run: Progress) -> Progress:
        started = time.monotonic()
        losses = (*run.losses, self.step(run.steps))
        return Progress(losses=losses, checks=run.checks, seconds=run.seconds + time.monotonic() - started)

    def step(self, number: int) -> float:
        """One step of the optimizer; the loss in nats per learned token, before it.

        Args:
            number: of the step, from 0; gives the text and the rates.
        """
        windows = order(number, self._training.windows_per_step, len(self._tokens), self._training.seed)
        pieces = np.array_split(windows, -(-len(windows) * self._training.length // self._training.piece_tokens))
        tokens, learned = self._tokens[torch.from_numpy(windows)], self._learned[torch.from_numpy(windows)]
        if self._on_policy and self._on_policy.applies(number):
            tokens, learned = self._on_policy.rewrite(self._student, tokens, number)
        total, start = 0.0, 0
        for piece in (piece for piece in pieces if len(piece)):
            rows = slice(start, start + len(piece))
            total += self._backward(piece, tokens[rows], learned[rows], int(learned.sum()), number)
            start += len(piece)
        torch.nn.utils.clip_grad_norm_(self._parameters().values(), _LARGEST_NORM)
        for group in self._optimizer.param_groups:
            group["lr"] = self._training.rate * rate_factor(number, self._training.steps, self._training.warm_up)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return total

    @property
    def _step_tokens(self) -> int:
        return self._training.windows_per_step * self._training.length

    def _backward(
        self,
        windows: NDArray[np.intp],
        tokens: torch.Tensor,
        learned: torch.Tensor,
        learned_in_step: int,
        number: int,
    ) -> float:
        """Gather the gradients of one piece; its part of the step's loss."""
        batch = self._targets.batch(windows, tokens, learned)
        with multiplying(in_bfloat16(self._training)):
            output = self._student.model(tokens, use_cache=False, output_hidden_states=bool(self._loss.hidden))
        # The token after a state is what the state is to predict.
        hidden, labels = output.last_hidden_state.float()[:, :-1][learned], tokens[:, 1:][learned]
        loss = torch.zeros(())
        if self._loss.of_logits:
            head, of_logits = self._student.lm_head.weight, self._of_logits(batch, labels)
            loss = mean_loss(hidden, head, of_logits, in_bfloat16=in_bfloat16(self._training))
        if weight := self._loss.hidden * hidden_weight(number, self._training.steps):
            ours = [state.float()[:, :-1] for state in output.hidden_states[1:]]
            theirs = [state[:, :-1] for state in batch.states]
            distance = self._loss.hidden_distance
            loss = loss + weight * hidden_state_loss(ours, theirs, learned, self._projectors, distance)
        loss = loss * (len(hidden) / learned_in_step)
        torch.autograd.backward(loss)
        return float(loss.detach())

    def _of_logits(self, batch: Batch, labels: torch.Tensor) -> Callable[[torch.Tensor, slice], torch.Tensor]:
        def loss(logits: torch.Tensor, rows: slice) -> torch.Tensor:
            total = batch.divergence(logits, rows)
            if self._loss.hard_labels:
                total = total + self._loss.hard_labels * hard_label_cross_entropy(logits, labels[rows])
            return total

        return loss

    def _check(self, run: Progress, state: TrainerState, held_out: Callable[[Any], float], judged_by: str) -> Progress:
        check = Check(run.steps, run.steps * self._step_tokens, held_out(self._student))
        if not math.isfinite(check.held_out):
            raise EdgepressError(
                f"training diverged: the held-out {judged_by} is {check.held_out} after {run.steps} steps; "
                "lower the rate"
            )
        checked = msgspec.structs.replace(run, checks=(*run.checks, check))
        if checked.best is check:
            state.save_best(checked, {name: _numpy(value) for name, value in self._parameters().items()})
        return checked

    def _should_stop(self, run: Progress) -> bool:
        return 0 < self._training.patience <= run.stale

    def _parameters(self) -> dict[str, nn.Parameter]:
        named = dict(self._student.named_parameters())
        return named | {f"projectors.{name}": value for name, value in self._projectors.named_parameters()}

    def _adamw(self) -> torch.optim.AdamW:
        parameters = self._parameters().values()
        matrices = [value for value in parameters if value.dim() > 1]
        vectors = [value for value in parameters if value.dim() == 1]
        groups = [
            {"params": matrices, "weight_decay": self._training.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self._training.rate, betas=_BETAS, fused=True)

    def _tensors(self) -> Tensors:
        found = {name: _numpy(value) for name, value in self._parameters().items()}
        for name, value in self._parameters().items():
            found |= {f"{name}|{moment}": _numpy(self._optimizer.state[value][moment]) for moment in _MOMENTS}
        return found

    def _resume(self, state: TrainerState) -> Progress | None:
        saved = state.load()
        if saved is None:
            return None
        run, tensors = saved
        self._restore(tensors)
        for name, value in self._parameters().items():
            moments: dict[str, Any] = {moment: torch.from_numpy(tensors[f"{name}|{moment}"]) for moment in _MOMENTS}
            self._optimizer.state[value] = moments | {"step": torch.tensor(float(run.steps))}
        say(f"training goes on after step {run.steps}")
        return run

    @torch.no_grad()
    def _restore(self, tensors: Tensors) -> None:
        for name, value in self._parameters().items():
            value.copy_(torch.from_numpy(tensors[name]))


def order(step: int, each: int, count: int, seed: int) -> NDArray[np.intp]:
    """The windows of a step, (each,): every one once before any comes again, then in another order."""
    places = np.arange(step * each, (step + 1) * each)
    rounds = {
        turn: np.random.default_rng((seed, 1, turn)).permutation(count) for turn in set((places // count).tolist())
    }
    return np.array([rounds[int(place) // count][int(place) % count] for place in places], np.intp)


def rate_factor(step: int, steps: int, warm_up: float) -> float:
    """Share of the highest learning rate: linear up over ``warm_up`` of the steps, then a cosine to zero."""
    warm = max(1, round(warm_up * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def hidden_weight(step: int, steps: int) -> float:
    """Share of the hidden states' weight: all of it for two thirds of the run, then falling linearly to zero."""
    return min(1.0, 3 * (1 - step / steps))


def _keep_no_activations(student: Any) -> None:
    """Layers compute what is inside them again in the backward pass, of which they keep their inputs alone."""
    for layer in student.model.layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def _numpy(value: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = value.detach().numpy()
    return array


def _words(run: Progress, steps: int, step_tokens: int, judged_by: str) -> str:
    check, rate = run.checks[-1], run.steps * step_tokens / max(run.seconds, 1e-9)
    return (
        f"step {run.steps} of {steps}, {check.tokens:,} tokens: loss {run.losses[-1]:.4f}, "
        f"held-out {judged_by} {check.held_out:.4f}, {rate:,.0f} tokens/s"
    )

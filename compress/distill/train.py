"""The trainer: one student, composable losses, any of the three sources of targets.

    L = Σ divergences + w_hard · CE + w_hidden(step) · L_hidden          means over the learned tokens of a step
    w_hidden(step) = w_hidden · min(1, 3 (1 - step / steps))

AdamW with a linear warm-up and a cosine decay to zero. A step gathers gradients over pieces of the batch, and over the
processes that share it (:mod:`~edgepress.compress.distill.processes`). Everything but parameters and moments is a
function of the step and the seed, so that a run that is killed and started again has the loss curve, to the bit, of one
that was not. What comes back is the state of the best held-out divergence, the start included, or with ``keep: last``
the last one; adapters (:mod:`~edgepress.compress.distill.lora`) are merged into it.
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
from torch.utils.checkpoint import checkpoint

from edgepress.compress.distill.config import Loss, Training
from edgepress.compress.distill.hidden_states import Projectors, hidden_state_loss, uniform_pairs
from edgepress.compress.distill.lora import add_adapters, merge_adapters
from edgepress.compress.distill.losses import hard_label_cross_entropy
from edgepress.compress.distill.on_policy import OnPolicy
from edgepress.compress.distill.precision import CPU, in_bfloat16, multiplying
from edgepress.compress.distill.processes import Processes
from edgepress.compress.distill.targets import Batch, Targets
from edgepress.compress.distill.text import Text
from edgepress.compress.distill.through_head import mean_loss
from edgepress.compress.distill.trainable import Trainable
from edgepress.compress.distill.trainer_state import Check, Progress, TrainerState
from edgepress.errors import EdgepressError
from edgepress.progress import progress as progress_bar
from edgepress.progress import say


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
        processes: Processes | None = None,
    ) -> None:
        """Take a student, which is trained in place.

        Args:
            student: transformers' causal language model, float32.
            targets: what to learn at the tokens of ``text``.
            text: to train on.
            loss: what counts.
            training: how.
            teacher_size: depth and width of the teacher, for hidden states.
            on_policy: lets the student write some of the text.
            processes: those that train together, and the device of this one; one on the CPU if not given.
        """
        self._processes = processes or Processes(0, 1, CPU)
        self._device = self._processes.device
        self._student, self._targets, self._text = student.eval().to(self._device), targets, text
        self._loss, self._training, self._on_policy = loss, training, on_policy
        self._tokens = torch.from_numpy(text.tokens.astype(np.int64))
        self._learned = torch.from_numpy(text.learned[:, 1:])
        config = student.config
        pairs = uniform_pairs(config.num_hidden_layers, teacher_size[0]) if loss.hidden else ()
        self._projectors = Projectors(pairs, config.hidden_size, teacher_size[1], training.seed).to(self._device)
        if training.lora:
            add_adapters(student, training.lora, training.seed)
        else:
            student.requires_grad_(True)
            student.get_input_embeddings().requires_grad_(training.embedding == "trained")
        if training.checkpointing:
            _keep_no_activations(student)
        self._trainable = Trainable({"": student, "projectors.": self._projectors}, training)

    @property
    def parameters(self) -> int:
        """How many are trained, those of projectors included."""
        return sum(value.numel() for value in self._trainable.parameters)

    def train(self, state: TrainerState, held_out: Callable[[Any], float], judged_by: str = "divergence") -> Progress:
        """Train to the end, from the saved state where there is one; the student ends in its best state, or the last.

        Of several processes the first alone is left with that student. Adapters are merged.

        Args:
            state: where the run is saved.
            held_out: judges the student as it is, in nats, less is better; the first process takes it.
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
                if self._processes.is_first and (run.steps % self._training.save_steps == 0 or run.steps == steps):
                    state.save(run, self._trainable.state())
        if self._processes.is_first and self._training.keep == "best":
            self._trainable.restore(state.load_best(run))
        if self._training.lora:
            merge_adapters(self._student)
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
        whole = order(number, self._training.windows_per_step, len(self._tokens), self._training.seed)
        windows = self._processes.part(whole)
        pieces = np.array_split(windows, -(-len(windows) * self._training.length // self._training.piece_tokens))
        places = torch.from_numpy(windows)
        tokens, learned = self._tokens[places].to(self._device), self._learned[places].to(self._device)
        if self._on_policy and self._on_policy.applies(number):
            tokens, learned = self._on_policy.rewrite(self._student, tokens, number)
        learned_in_step = self._processes.total(int(learned.sum()))
        total, start = 0.0, 0
        for piece in (piece for piece in pieces if len(piece)):
            rows = slice(start, start + len(piece))
            total += self._backward(piece, tokens[rows], learned[rows], learned_in_step, number)
            start += len(piece)
        self._processes.sum_gradients(self._trainable.parameters)
        self._trainable.step(self._training.rate * rate_factor(number, self._training.steps, self._training.warm_up))
        return self._processes.total(total)

    @property
    def _step_tokens(self) -> int:
        return self._training.windows_per_step * self._training.length

    def _backward(
        self,
        windows: NDArray[np.intp],
        tokens: torch.Tensor,
        learned: torch.Tensor,
        learned_in_step: float,
        number: int,
    ) -> float:
        """Gather the gradients of one piece; its part of the step's loss."""
        batch = self._targets.batch(windows, tokens, learned)
        narrow = in_bfloat16(self._training, self._device)
        with multiplying(narrow, self._device):
            output = self._student.model(tokens, use_cache=False, output_hidden_states=bool(self._loss.hidden))
        # The token after a state is what the state is to predict.
        hidden, labels = output.last_hidden_state.float()[:, :-1][learned], tokens[:, 1:][learned]
        loss = torch.zeros((), device=self._device)
        if self._loss.of_logits:
            head, halves = self._student.lm_head.weight, None if self._loss.hard_labels else batch.of_halves
            loss = mean_loss(hidden, head, self._of_logits(batch, labels), in_bfloat16=narrow, of_halves=halves)
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
        found = self._processes.from_first(lambda: held_out(self._student))
        check = Check(run.steps, run.steps * self._step_tokens, found)
        if not math.isfinite(check.held_out):
            raise EdgepressError(
                f"training diverged: the held-out {judged_by} is {check.held_out} after {run.steps} steps; "
                "lower the rate"
            )
        checked = msgspec.structs.replace(run, checks=(*run.checks, check))
        if checked.best is check and self._processes.is_first:
            state.save_best(checked, self._trainable.values())
        return checked

    def _should_stop(self, run: Progress) -> bool:
        return 0 < self._training.patience <= run.stale

    def _resume(self, state: TrainerState) -> Progress | None:
        """The saved run where there is one; all processes start from what the first one has."""
        saved = state.load() if self._processes.is_first else None
        run = self._processes.from_first(lambda: saved[0] if saved else None)
        if run is not None:
            self._trainable.resume(run.steps, saved[1] if saved else None)
            say(f"training goes on after step {run.steps}")
        self._processes.copy_from_first(self._trainable.tensors)
        return run


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


def _words(run: Progress, steps: int, step_tokens: int, judged_by: str) -> str:
    check, rate = run.checks[-1], run.steps * step_tokens / max(run.seconds, 1e-9)
    return (
        f"step {run.steps} of {steps}, {check.tokens:,} tokens: loss {run.losses[-1]:.4f}, "
        f"held-out {judged_by} {check.held_out:.4f}, {rate:,.0f} tokens/s"
    )

"""All weights of a classifier trained on soft labels, from a head that is the optimum of its frozen features.

    L = mean_i Σ_k -p_ik log softmax(f(x_i))_k

Starting from the solved head keeps the first steps from tearing up features to make up for a random one (Kumar et al.,
arXiv 2202.10054). AdamW, a linear warm-up and a cosine to zero, gradients clipped to norm 1, the architecture's own
dropout. The order of the texts, the rate and dropout follow from the step and the seed, so that a run that is killed
and started again ends in the same bits. What comes back is the state of the best held-out check, the start included.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgepress.compress.calibrate.bfloat16 import has_native_bfloat16
from edgepress.compress.classify.config import ClassifierSettings
from edgepress.compress.classify.forward import batch_of, in_pieces
from edgepress.compress.classify.student import ClassifierStudent
from edgepress.compress.distill.precision import multiplying
from edgepress.compress.distill.train import order, rate_factor
from edgepress.compress.distill.trainer_state import Check, Progress, Tensors, TrainerState
from edgepress.errors import EdgepressError
from edgepress.progress import progress as progress_bar
from edgepress.progress import say

_BETAS = (0.9, 0.999)
_LARGEST_NORM = 1.0
_MOMENTS = ("exp_avg", "exp_avg_sq")


class FineTuning:
    """A classifier in training, in memory; its parameters are trained in place."""

    def __init__(
        self,
        student: ClassifierStudent,
        tokens: Sequence[list[int]],
        targets: NDArray[np.float64],
        settings: ClassifierSettings,
    ) -> None:
        """Take a student, the texts as token ids and their probabilities, (texts, labels)."""
        self._student, self._tokens, self._settings = student, tokens, settings
        self._targets = torch.from_numpy(targets.astype(np.float32))
        self._bfloat16 = settings.precision == "auto" and has_native_bfloat16()
        student.model.requires_grad_(True)
        self._optimizer = self._adamw()

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self._settings.steps(len(self._tokens))

    @property
    def _texts_in_step(self) -> int:
        return self._settings.texts_in_step(len(self._tokens))

    def train(self, state: TrainerState, held_out: Callable[[], float]) -> Progress:
        """Train to the end, from the saved state where there is one; the student ends in its best state.

        Args:
            state: where the run is saved.
            held_out: divergence of the student as it is, in nats.

        Raises:
            EdgepressError: the training diverged.
        """
        run = self._resume(state) or self._check(Progress(), state, held_out)
        settings, steps = self._settings, self.steps
        checks = {round(steps * (part + 1) / settings.checks) for part in range(settings.checks)}
        size = self._texts_in_step
        with progress_bar("classifier", steps * size, done=run.steps * size, unit="texts") as shown:
            while run.steps < steps and not 0 < settings.patience <= run.stale:
                started = time.monotonic()
                losses = (*run.losses, self.step(run.steps))
                run = Progress(losses=losses, checks=run.checks, seconds=run.seconds + time.monotonic() - started)
                shown(size)
                if run.steps in checks:
                    run = self._check(run, state, held_out)
                    say(f"step {run.steps} of {steps}: held-out divergence {run.checks[-1].held_out:.4f}")
                if run.steps % settings.save_steps == 0 or run.steps == steps:
                    state.save(run, self._tensors())
        self._restore(state.load_best(run))
        return run

    def step(self, number: int) -> float:
        """One step of the optimizer; the loss in nats before it."""
        torch.manual_seed(int(np.random.default_rng((self._settings.seed, 2, number)).integers(2**62)))
        self._student.model.train()
        places = order(number, self._texts_in_step, len(self._tokens), self._settings.seed)
        texts = [self._tokens[place] for place in places]
        total = sum(self._backward(places[piece], len(places)) for piece in in_pieces(texts, self._settings.piece))
        torch.nn.utils.clip_grad_norm_(self._parameters().values(), _LARGEST_NORM)
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.rate * rate_factor(number, self.steps, self._settings.warm_up)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._student.model.eval()
        return total

    def _backward(self, places: NDArray[np.intp], in_step: int) -> float:
        """Gather the gradients of some texts; their part of the step's loss."""
        batch = batch_of(self._student, [self._tokens[place] for place in places])
        with multiplying(self._bfloat16):
            logits = self._student.model(**batch).logits
        losses = nn.functional.cross_entropy(logits.float(), self._targets[torch.from_numpy(places)], reduction="sum")
        loss = losses / in_step
        torch.autograd.backward(loss)
        return float(loss.detach())

    def _check(self, run: Progress, state: TrainerState, held_out: Callable[[], float]) -> Progress:
        check = Check(run.steps, run.steps * self._texts_in_step, held_out())
        if not math.isfinite(check.held_out):
            raise EdgepressError(f"training diverged: {check.held_out} after {run.steps} steps; lower the rate")
        checked = msgspec.structs.replace(run, checks=(*run.checks, check))
        if checked.best is check:
            state.save_best(checked, {name: _numpy(value) for name, value in self._parameters().items()})
        return checked

    def _parameters(self) -> dict[str, nn.Parameter]:
        return dict(self._student.model.named_parameters())

    def _adamw(self) -> torch.optim.AdamW:
        parameters = self._parameters().values()
        groups: list[dict[str, Any]] = [
            {"params": [value for value in parameters if value.dim() > 1], "weight_decay": self._settings.weight_decay},
            {"params": [value for value in parameters if value.dim() == 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self._settings.rate, betas=_BETAS, fused=True)

    def _tensors(self) -> Tensors:
        found = {name: _numpy(value) for name, value in self._parameters().items()}
        for name, value in self._parameters().items():
            for moment, kept in self._optimizer.state[value].items():
                if moment in _MOMENTS:
                    found[f"{name}|{moment}"] = _numpy(kept)
        return found

    def _resume(self, state: TrainerState) -> Progress | None:
        saved = state.load()
        if saved is None:
            return None
        run, tensors = saved
        self._restore(tensors)
        for name, value in self._parameters().items():
            if f"{name}|{_MOMENTS[0]}" in tensors:
                moments: dict[str, Any] = {each: torch.from_numpy(tensors[f"{name}|{each}"]) for each in _MOMENTS}
                self._optimizer.state[value] = moments | {"step": torch.tensor(float(run.steps))}
        say(f"training goes on after step {run.steps}")
        return run

    @torch.no_grad()
    def _restore(self, tensors: Tensors) -> None:
        for name, value in self._parameters().items():
            value.copy_(torch.from_numpy(tensors[name]))


def _numpy(value: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = value.detach().numpy()
    return array

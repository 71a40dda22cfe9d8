"""What a student is to learn at the tokens of a batch: from the teacher's cache, from the teacher itself, or nothing.

Rows are the learned tokens of the batch in order. Logits that predict token t come from the states of token t - 1; the
shift is made once, in :mod:`~edgepress.compress.distill.train`, and holds for both models.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.compress.calibrate.bfloat16 import bfloat16_products
from edgepress.compress.distill.config import Loss
from edgepress.compress.distill.half_logits import to_gradient
from edgepress.compress.distill.losses import jsd, kl, reverse_kl
from edgepress.compress.distill.precision import multiplying
from edgepress.compress.distill.sparse_kl import sparse_kl
from edgepress.compress.distill.teacher_cache import TeacherCache
from edgepress.compress.distill.through_head import LossOfHalves
from edgepress.compress.distill.top_k import TopK

States = tuple[torch.Tensor, ...]


class Batch(Protocol):
    """The teacher's word on some windows."""

    @property
    def states(self) -> States:
        """States after each of the teacher's layers, (samples, length, hidden); empty where they are not known."""

    def divergence(self, logits: torch.Tensor, rows: slice) -> torch.Tensor:
        """Weighted divergences of the student's logits, (rows, vocabulary), at some of the learned tokens, (rows,)."""

    @property
    def of_halves(self) -> LossOfHalves | None:
        """The same from logits that are halves, where it is known how."""


class Targets(Protocol):
    """Where batches come from."""

    def batch(self, windows: NDArray[np.intp], tokens: torch.Tensor, learned: torch.Tensor) -> Batch:
        """The teacher's word on windows.

        Args:
            windows: their numbers in the training text, (samples,).
            tokens: their ids, int64, (samples, length).
            learned: whether the token *after* each is learned, bool, (samples, length - 1).
        """


class TextOnly:
    """No teacher: the text's own tokens are all there is to learn."""

    states: States = ()
    of_halves = None

    def batch(self, windows: NDArray[np.intp], tokens: torch.Tensor, learned: torch.Tensor) -> Batch:
        """See :class:`Targets`."""
        return self

    def divergence(self, logits: torch.Tensor, rows: slice) -> torch.Tensor:
        """Nothing."""
        return logits.new_zeros(len(logits))


class CachedTargets:
    """From a cache: the teacher need not be in memory."""

    def __init__(self, cache: TeacherCache, loss: Loss) -> None:
        self._cache, self._loss = cache, loss

    def batch(self, windows: NDArray[np.intp], tokens: torch.Tensor, learned: torch.Tensor) -> Batch:
        """See :class:`Targets`."""
        read = [
            self._cache.read(int(window), counted, self._loss.temperature)
            for window, counted in zip(windows, learned.cpu().numpy(), strict=True)
        ]
        parts = (torch.cat(parts).to(tokens.device) for parts in zip(*read, strict=True))
        return _CachedBatch(TopK(*parts), self._loss)


class _CachedBatch:
    states: States = ()

    def __init__(self, top_k: TopK, loss: Loss) -> None:
        self._top_k, self._loss = top_k, loss

    def divergence(self, logits: torch.Tensor, rows: slice) -> torch.Tensor:
        return self._loss.kl * sparse_kl(logits, *self._at(rows), self._loss.temperature)

    @property
    def of_halves(self) -> LossOfHalves | None:
        return self._of_halves if self._top_k.ids.device.type == "cpu" else None

    def _of_halves(self, logits: torch.Tensor, hidden: torch.Tensor, head: torch.Tensor, rows: slice) -> float:
        return to_gradient(logits, hidden, head, self._at(rows), self._loss.temperature, self._loss.kl)

    def _at(self, rows: slice) -> TopK:
        return TopK(*(part[rows] for part in self._top_k))


class TeacherAlongside:
    """The teacher runs on every batch, in evaluation mode."""

    def __init__(self, teacher: Any, loss: Loss, *, in_bfloat16: bool = False) -> None:
        """Take a teacher.

        Args:
            teacher: transformers' causal language model, on the device of the batches.
            loss: which divergences are wanted.
            in_bfloat16: how it multiplies.
        """
        self._teacher, self._loss, self._in_bfloat16 = teacher.eval(), loss, in_bfloat16

    @torch.no_grad()
    def batch(self, windows: NDArray[np.intp], tokens: torch.Tensor, learned: torch.Tensor) -> Batch:
        """See :class:`Targets`."""
        with multiplying(self._in_bfloat16, tokens.device):
            output = self._teacher.model(tokens, use_cache=False, output_hidden_states=bool(self._loss.hidden))
        final = output.last_hidden_state.float()[:, :-1][learned]
        states = tuple(state.float() for state in output.hidden_states[1:]) if self._loss.hidden else ()
        return _LiveBatch(final, self._teacher.lm_head.weight, states, self._loss, self._in_bfloat16)


class _LiveBatch:
    of_halves = None

    def __init__(self, final: torch.Tensor, head: torch.Tensor, states: States, loss: Loss, in_bfloat16: bool) -> None:
        self._final, self._head, self.states, self._loss = final, head, states, loss
        self._in_bfloat16 = in_bfloat16

    def divergence(self, logits: torch.Tensor, rows: slice) -> torch.Tensor:
        loss = self._loss
        with torch.no_grad(), bfloat16_products(self._in_bfloat16):
            teacher = self._final[rows] @ self._head.T
        total = logits.new_zeros(len(logits))
        if loss.kl:
            total = total + loss.kl * kl(logits, teacher, loss.temperature)
        if loss.reverse_kl:
            total = total + loss.reverse_kl * reverse_kl(logits, teacher, loss.temperature)
        if loss.jsd:
            total = total + loss.jsd * jsd(logits, teacher, loss.temperature, loss.beta)
        return total

"""A loss on logits, from hidden states, without the logits of all tokens.

    L = Σ_t w_t ℓ(B h_t)        ∂L/∂h_t = w_t Bᵀ ∂ℓ/∂z_t        ∂L/∂B = Σ_t w_t ∂ℓ/∂z_t h_tᵀ

The logits of a token are 200 kB for a vocabulary of 49152. They are computed for a few tokens at a time, and the
gradients with respect to h and B at once with them, so that nothing of that size waits for the backward pass.

The head is most of a small student's work. Where products are in bfloat16, logits are rounded to it only by losses that
know which ones to make again (:mod:`~edgepress.compress.distill.half_logits`): one of 20 is off by 0.06 then. For all
others the factors of which logits are sums are rounded, which moves them by some thousandths. Their gradient is not
large beside anything, so that its two products may be in bfloat16, summed in float32. A head that is frozen gets no
gradient, and its product is not made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from edgepress.compress.calibrate.bfloat16 import bfloat16_products

_LOGIT_BYTES_AT_ONCE = 100e6
_Sum = float | torch.Tensor
LossOfLogits = Callable[[torch.Tensor, slice], torch.Tensor]


class LossOfHalves(Protocol):
    """A loss of logits that are halves."""

    def __call__(self, logits: torch.Tensor, hidden: torch.Tensor, head: torch.Tensor, rows: slice) -> float:
        """The sum over some tokens, whose ``logits``, bfloat16, become its gradient."""


def mean_loss(
    hidden: torch.Tensor,
    head: torch.Tensor,
    loss: LossOfLogits,
    *,
    in_bfloat16: bool = False,
    of_halves: LossOfHalves | None = None,
) -> torch.Tensor:
    """The mean loss over tokens, a scalar that is differentiable in ``hidden`` and ``head``.

    Args:
        hidden: outputs of the final norm, (tokens, hidden), at least one token.
        head: (vocabulary, hidden).
        loss: (logits of some tokens, float32 or float64, which tokens) → loss of each, (those tokens,).
        in_bfloat16: multiply in bfloat16, where the processor does so natively in the case of the logits.
        of_halves: the same loss, taken in its place where products are in bfloat16.
    """
    part = _OfHalves(of_halves) if in_bfloat16 and of_halves else _OfLogits(loss, head.element_size())
    mean: torch.Tensor = _MeanLoss.apply(hidden, head, part, in_bfloat16)
    return mean


class _Factors:
    """What logits are products of, as it is and as it is multiplied."""

    def __init__(self, hidden: torch.Tensor, head: torch.Tensor, in_bfloat16: bool) -> None:
        narrow = torch.bfloat16 if in_bfloat16 else hidden.dtype
        self.hidden, self.head, self.in_bfloat16 = hidden, head, in_bfloat16
        self.narrow_hidden, self.narrow_head = hidden.to(narrow), head.to(narrow)


class _Part(Protocol):
    logit_bytes: int

    def __call__(self, factors: _Factors, rows: slice) -> tuple[_Sum, torch.Tensor]:
        """The sum of some tokens' losses and its gradient by their logits."""


class _OfLogits:
    def __init__(self, loss: LossOfLogits, logit_bytes: int) -> None:
        self._loss, self.logit_bytes = loss, logit_bytes

    def __call__(self, factors: _Factors, rows: slice) -> tuple[_Sum, torch.Tensor]:
        with bfloat16_products(factors.in_bfloat16):
            logits = factors.hidden[rows] @ factors.head.T
        leaf = (logits if logits.dtype == torch.float64 else logits.float()).requires_grad_(True)
        with torch.enable_grad():
            total = self._loss(leaf, rows).sum(dtype=torch.float64)
        return total.detach(), torch.autograd.grad(total, leaf)[0]


class _OfHalves:
    logit_bytes = 2

    def __init__(self, loss: LossOfHalves) -> None:
        self._loss = loss

    def __call__(self, factors: _Factors, rows: slice) -> tuple[_Sum, torch.Tensor]:
        logits = factors.narrow_hidden[rows] @ factors.narrow_head.T
        return self._loss(logits, factors.hidden[rows], factors.head, rows), logits


class _MeanLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.Tensor, part: _Part, in_bfloat16: bool) -> torch.Tensor:
        of_hidden = torch.empty_like(hidden)
        of_head = torch.zeros_like(head) if ctx.needs_input_grad[1] else None
        factors = _Factors(hidden, head, in_bfloat16)
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        each = max(1, int(_LOGIT_BYTES_AT_ONCE / (len(head) * part.logit_bytes)))
        for start in range(0, len(hidden), each):
            rows = slice(start, min(start + each, len(hidden)))
            value, gradient = part(factors, rows)
            total += value
            narrow = gradient.to(factors.narrow_head.dtype)
            of_hidden[rows] = narrow @ factors.narrow_head
            if of_head is not None:
                of_head += narrow.T @ factors.narrow_hidden[rows]
        ctx.save_for_backward(of_hidden.div_(len(hidden)), None if of_head is None else of_head.div_(len(hidden)))
        return (total / len(hidden)).to(hidden.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None, None]:
        of_hidden, of_head = ctx.saved_tensors
        return of_hidden * gradients[0], None if of_head is None else of_head * gradients[0], None, None

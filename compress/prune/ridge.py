"""A linear regression of what is missing on a linear's inputs, with a ridge whose size held-out text decides.

    Δ(λ) = E[w m xᵀ] (E[w x xᵀ] + λ I)⁻¹        what to add to the weights: m is missing, x is read, w weighs a token

Each λ is solved on a first part of the text, and judged by what it saves on a second one,

    E₂ w |m|² - E₂ w |m - Δ x|²  =  2 tr(Δ E₂[w x mᵀ]) - tr(Δ E₂[w x xᵀ] Δᵀ)

for which moments are enough. The best one is then solved on the whole text. Where none saves anything, Δ = 0: what
would only be learned by heart leaves the weights as they were.
"""

from __future__ import annotations

import msgspec
import torch

from edgepress.compress.calibrate.one_dnn import linear
from edgepress.errors import InputError

DAMPINGS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # λ, of the mean of E[w x²]
EVERY = 4  # one window of so many is held out, where nothing else is said
_ATTEMPTS = 12


class Sums(msgspec.Struct, frozen=True, kw_only=True):
    """E[w x xᵀ], (inputs, inputs), and E[w m xᵀ], (outputs, inputs), in float64; not divided by the tokens."""

    square: torch.Tensor
    missing: torch.Tensor

    def __add__(self, other: Sums) -> Sums:
        """Over both texts."""
        return Sums(square=self.square + other.square, missing=self.missing + other.missing)


class HeldOut:
    """Which tokens are held out, batch after batch of windows: those of one window in ``every``, of the last where
    there are fewer, or the last quarter of the only one.
    """

    def __init__(self, windows: int, every: int = EVERY) -> None:
        self._windows, self._every, self._seen = windows, every, 0

    def of(self, batch: torch.Tensor) -> torch.Tensor:
        """Of the next windows, (windows, tokens, ...): (windows, tokens)."""
        (count, tokens), every = batch.shape[:2], self._every
        places = torch.arange(self._seen, self._seen + count)
        self._seen += count
        if self._windows == 1:
            return (torch.arange(tokens) >= tokens - tokens // EVERY)[None]
        chosen = places == self._windows - 1 if self._windows < every else places % every == every - 1
        return chosen[:, None].expand(-1, tokens)


def token_weights(stream: torch.Tensor) -> torch.Tensor:
    """w = 1 / mean h² of each token, (windows, tokens, 1), of the residual stream h, (windows, tokens, hidden). A token
    with less than a thousandth of the usual energy counts as one with that: it would own the sums.
    """
    energy = stream.square().mean(-1, keepdim=True)
    return 1 / energy.clamp(min=max(1e-20, 1e-3 * float(energy.median())))


class Regression:
    """Sums over batches of windows, of which a part is held out."""

    def __init__(self, inputs: int, outputs: int, windows: int, name: str, every: int = EVERY) -> None:
        """``name`` is that of the linear, for what has to be said of it; one window in ``every`` is held out."""
        self._name = name
        self._parts = [
            Sums(square=torch.zeros(inputs, inputs).double(), missing=torch.zeros(outputs, inputs).double())
            for _ in range(2)
        ]
        self._held_out = HeldOut(windows, every)

    def add(self, inputs: torch.Tensor, missing: torch.Tensor, weights: torch.Tensor) -> None:
        """Add a batch of windows.

        Args:
            inputs: x, (windows, tokens, inputs).
            missing: m, (windows, tokens, outputs).
            weights: w, (windows, tokens, 1).
        """
        held_out, root = self._held_out.of(inputs), weights.sqrt()
        for part, sums in enumerate(self._parts):
            chosen = held_out == bool(part)
            if chosen.any():
                x, m = (inputs * root)[chosen].T, (missing * root)[chosen].T
                sums.square.add_(linear(x, x))
                sums.missing.add_(linear(m, x))

    def change(self) -> torch.Tensor:
        """Δ, float64, (outputs, inputs).

        Raises:
            InputError: what was added is not finite: the model overflows.
        """
        if not all(bool(each.isfinite().all()) for part in self._parts for each in (part.square, part.missing)):
            raise InputError(f"{self._name}: what it reads is not finite: the model overflows and cannot be repaired")
        damping = best_damping(*self._parts)
        whole = self._parts[0] + self._parts[1]
        return torch.zeros_like(whole.missing) if damping is None else ridge(whole, damping)


def ridge(sums: Sums, damping: float) -> torch.Tensor:
    """Δ(λ) with λ a share of the mean of E[w x²]."""
    return torch.cholesky_solve(sums.missing.T, factor(sums.square, damping)).T


def factor(square: torch.Tensor, damping: float) -> torch.Tensor:
    """The lower Cholesky factor of ``square`` + λ I, λ being ``damping`` of the mean of its diagonal, or as many times
    ten more as sums want that rounding has left with negative eigenvalues; inputs that are all zero have one, too, and
    so have those that never vary, whose variance is rounding and may come out negative.

    Raises:
        InputError: ``square`` is not finite.
    """
    mean = square.diagonal().abs().mean()
    size = torch.clamp(damping * mean, min=1e-30)
    unit = torch.eye(len(square), dtype=torch.float64)
    for _ in range(_ATTEMPTS):
        found = torch.linalg.cholesky_ex(square + size * unit)
        if not found.info:
            lower: torch.Tensor = found.L
            return lower
        size = 10 * torch.maximum(size, 1e-9 * mean)
    raise InputError("the inputs of a linear are not finite: the model overflows")


def best_damping(first: Sums, second: Sums) -> float | None:
    """The damping, of those tried, that saves most on the second part when it is solved on the first; None where none
    saves anything.
    """
    outputs, inputs = first.missing.shape
    saving = _saved_by_inputs if outputs > 2 * inputs else _saved
    saved = saving(first, second)
    best = max(saved, key=lambda damping: saved[damping])
    return best if saved[best] > 0 else None


def _saved(first: Sums, second: Sums) -> dict[float, float]:
    """What each damping saves, from Δ."""
    found = {}
    for damping in DAMPINGS:
        change = ridge(first, damping)
        found[damping] = float((2 * change * second.missing).sum() - ((change @ second.square) * change).sum())
    return found


def _saved_by_inputs(first: Sums, second: Sums) -> dict[float, float]:
    """The same without Δ, which is long where there are many outputs: with G = E[w x xᵀ] + λ I of the first part,

    2 tr(G⁻¹ E₂[w m xᵀ]ᵀ E₁[w m xᵀ]) - tr(G⁻¹ E₂[w x xᵀ] G⁻¹ E₁[w m xᵀ]ᵀ E₁[w m xᵀ])
    """
    across, along = second.missing.T @ first.missing, first.missing.T @ first.missing
    found = {}
    for damping in DAMPINGS:
        inverse = torch.cholesky_inverse(factor(first.square, damping))
        quadratic = (inverse @ second.square) * (inverse @ along).T
        found[damping] = float(2 * (inverse * across.T).sum() - quadratic.sum())
    return found

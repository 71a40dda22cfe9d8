"""Statistics of a linear's inputs for pruning, summed up batch by batch.

For ``obs`` tokens count by w = 1 / mean h², h the residual stream that the linear's output is added to: what follows
normalises the stream, so that is what an error is relative to. Without it a few tokens own the sums: the first token of
a text enters some layers with a thousand times the energy of any other. The published scores take all tokens alike.
"""

from __future__ import annotations

import torch

from edgepress.compress.calibrate.one_dnn import linear
from edgepress.compress.prune.importance import Evidence
from edgepress.compress.prune.obs import Moments
from edgepress.compress.prune.ridge import HeldOut, token_weights
from edgepress.errors import InputError


class _Part:
    """Weighted sums over some of the tokens."""

    def __init__(self, columns: int) -> None:
        self._weights = 0.0
        self._weighted = torch.zeros(2, columns, dtype=torch.float64)  # x, x°
        self._square = torch.zeros(columns, columns, dtype=torch.float64)
        self._cross: torch.Tensor | None = None

    def add(self, x: torch.Tensor, before: torch.Tensor | None, weights: torch.Tensor) -> None:
        """Add tokens: x and x°, (tokens, columns), and w, (tokens, 1)."""
        weighted = x * weights
        self._weights += float(weights.sum(dtype=torch.float64))
        self._weighted[0] += weighted.sum(0, dtype=torch.float64)
        self._square += linear(weighted.T, x.T)
        if before is not None:
            self._weighted[1] += (before * weights).sum(0, dtype=torch.float64)
            self._cross = (0 if self._cross is None else self._cross) + linear(before.T, weighted.T).double()

    @property
    def finite(self) -> bool:
        """Whether all sums are."""
        crosses = [] if self._cross is None else [self._cross]
        return all(bool(each.isfinite().all()) for each in (self._weighted, self._square, *crosses))

    def __add__(self, other: _Part) -> _Part:
        both = _Part(len(self._square))
        both._weights = self._weights + other._weights
        both._weighted, both._square = self._weighted + other._weighted, self._square + other._square
        crosses = [each for each in (self._cross, other._cross) if each is not None]
        both._cross = sum(crosses[1:], crosses[0]) if crosses else None
        return both

    def moments(self, *, intercept: bool) -> Moments:
        """About the mean, or about zero where no bias can hold it."""
        means = self._weighted / max(self._weights, 1e-300)
        mean, original_mean = means[0], means[0] if self._cross is None else means[1]
        if not intercept:
            mean, original_mean = torch.zeros_like(mean), torch.zeros_like(mean)
        square = self._square / max(self._weights, 1e-300)
        cross = square if self._cross is None else self._cross / max(self._weights, 1e-300)
        return Moments(
            mean=mean,
            original_mean=original_mean,
            covariance=square - torch.outer(mean, mean),
            cross=cross - torch.outer(original_mean, mean),
        )


class InputSums:
    """Sums over batches of windows of inputs; of some windows apart where it is told how many there will be."""

    def __init__(self, columns: int, name: str, windows: int | None = None) -> None:
        """``name`` is that of the linear, for what has to be said of it."""
        self._name, self._tokens = name, 0
        self._plain = torch.zeros(3, columns, dtype=torch.float64)  # x, x², squares of the windows' means of |x|
        self._held_out = None if windows is None else HeldOut(windows)
        self._parts = [_Part(columns) for _ in range(1 if windows is None else 2)]

    def add(self, inputs: torch.Tensor, original: torch.Tensor | None, stream: torch.Tensor) -> None:
        """Add a batch, (windows, tokens, columns); ``original`` is None where the two do not differ.

        ``stream``: the original's residual stream, (windows, tokens, hidden).
        """
        self._add_plain(inputs)
        weights = token_weights(stream)
        held_out = None if self._held_out is None else self._held_out.of(inputs)
        for place, part in enumerate(self._parts):
            chosen = slice(None) if held_out is None else held_out == bool(place)
            x, before = inputs[chosen].flatten(0, -2), None if original is None else original[chosen].flatten(0, -2)
            if len(x):
                part.add(x, before, weights[chosen].flatten(0, -2))

    def _add_plain(self, inputs: torch.Tensor) -> None:
        self._tokens += inputs.shape[0] * inputs.shape[1]
        self._plain[0] += inputs.sum((0, 1), dtype=torch.float64)
        self._plain[1] += inputs.square().sum((0, 1), dtype=torch.float64)
        self._plain[2] += inputs.abs().mean(1).double().square().sum(0)

    def require_finite(self) -> None:
        """Refuse a model that overflows.

        Raises:
            InputError: some sum is not finite; names the linear.
        """
        if not (self._plain.isfinite().all() and all(part.finite for part in self._parts)):
            raise InputError(f"{self._name}: what it reads is not finite: the model overflows and cannot be pruned")

    def moments(self, *, intercept: bool) -> Moments:
        """Weighted moments of all tokens: about the mean, or about zero where no bias can hold it."""
        return sum(self._parts[1:], self._parts[0]).moments(intercept=intercept)

    def parts(self, *, intercept: bool) -> tuple[Moments, Moments]:
        """Those of the windows to solve on, and of those to judge by."""
        first, second = self._parts
        return first.moments(intercept=intercept), second.moments(intercept=intercept)

    @property
    def plain_mean(self) -> torch.Tensor:
        """Mean of each input over all tokens alike, (columns,)."""
        return self._plain[0] / self._tokens

    def evidence(self, weight: torch.Tensor, makers: torch.Tensor) -> Evidence:
        """What the published scores look at."""
        mean, mean_square, _ = self._plain / self._tokens
        return Evidence(
            weight=weight, makers=makers, mean=mean, mean_square=mean_square, window_means=self._plain[2].sqrt()
        )

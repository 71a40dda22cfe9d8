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


class InputSums:
    """Sums over batches of inputs."""

    def __init__(self, columns: int) -> None:
        self._weights = 0.0
        self._tokens = 0
        self._weighted = torch.zeros(2, columns, dtype=torch.float64)  # x, x°
        self._plain = torch.zeros(3, columns, dtype=torch.float64)  # x, x², squares of the windows' means of |x|
        self._square = torch.zeros(columns, columns, dtype=torch.float64)
        self._cross: torch.Tensor | None = None

    def add(self, inputs: torch.Tensor, original: torch.Tensor | None, stream: torch.Tensor) -> None:
        """Add a batch, (windows, tokens, columns); ``original`` is None where the two do not differ.

        ``stream``: the original's residual stream, (windows, tokens, hidden).
        """
        self._add_plain(inputs)
        x = inputs.flatten(0, -2)
        weights = 1 / stream.flatten(0, -2).square().mean(1, keepdim=True).clamp(min=1e-20)
        weighted = x * weights
        self._weights += float(weights.sum(dtype=torch.float64))
        self._weighted[0] += weighted.sum(0, dtype=torch.float64)
        self._square += linear(weighted.T, x.T)
        if original is not None:
            before = original.flatten(0, -2)
            self._weighted[1] += (before * weights).sum(0, dtype=torch.float64)
            self._cross = (0 if self._cross is None else self._cross) + linear(before.T, weighted.T).double()

    def _add_plain(self, inputs: torch.Tensor) -> None:
        self._tokens += inputs.shape[0] * inputs.shape[1]
        self._plain[0] += inputs.sum((0, 1), dtype=torch.float64)
        self._plain[1] += inputs.square().sum((0, 1), dtype=torch.float64)
        self._plain[2] += inputs.abs().mean(1).double().square().sum(0)

    def moments(self, *, intercept: bool) -> Moments:
        """Weighted moments: about the mean, or about zero where no bias can hold it."""
        means = self._weighted / self._weights
        mean, original_mean = means[0], means[0] if self._cross is None else means[1]
        if not intercept:
            mean, original_mean = torch.zeros_like(mean), torch.zeros_like(mean)
        square = self._square / self._weights
        cross = square if self._cross is None else self._cross / self._weights
        return Moments(
            mean=mean,
            original_mean=original_mean,
            covariance=square - torch.outer(mean, mean),
            cross=cross - torch.outer(original_mean, mean),
        )

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

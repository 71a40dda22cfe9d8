"""The published scores that pruning is compared with; each unit's is the sum over its columns.

magnitude    sum of squares of every weight that goes with the unit: what makes it and what reads it
activation   sqrt(Σ over windows (mean over tokens |x_j|)²)                 Minitron, arXiv 2407.14679
wanda_sp     Σ_o |W_oj| · sqrt(E x_j²)                                      Wanda (arXiv 2306.11695), for structures
flap         Var(x_j) · Σ_o W_oj², what is lost once the mean is in a bias  FLAP, arXiv 2312.11983
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import torch

from edgepress.compress.prune.obs import Path, Units


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the scores look at, float64, one entry per column: ``weight`` W (outputs, columns), ``makers`` the sum of
    squares of the weights that make the column, and the statistics of the inputs over all tokens alike.
    """

    weight: torch.Tensor
    makers: torch.Tensor
    mean: torch.Tensor
    mean_square: torch.Tensor
    window_means: torch.Tensor


def _variance(seen: Evidence) -> torch.Tensor:
    return (seen.mean_square - seen.mean.square()).clamp(min=0)


SCORES: dict[str, Callable[[Evidence], torch.Tensor]] = {
    "magnitude": lambda seen: seen.weight.square().sum(0) + seen.makers,
    "activation": lambda seen: seen.window_means,
    "wanda_sp": lambda seen: seen.weight.abs().sum(0) * seen.mean_square.sqrt(),
    "flap": lambda seen: _variance(seen) * seen.weight.square().sum(0),
}


def score_path(method: str, seen: Evidence, units: Units, removed: int) -> Path:
    """Remove the units of least score. The loss is the share of the layer's whole score that is gone.

    Args:
        method: one of ``SCORES``.
        seen: weights and statistics.
        units: what may be removed.
        removed: how many, a multiple of ``units.step``.
    """
    scores = SCORES[method](seen).view(units.count, units.size).sum(1)
    by_class = scores.view(units.classes, -1)
    ranked = by_class.argsort(dim=1, stable=True) + torch.arange(units.classes)[:, None] * by_class.shape[1]
    order = ranked.T.flatten()[:removed]  # one of each class in turn
    gone = scores[order].cumsum(0)[units.step - 1 :: units.step] / scores.sum().clamp(min=1e-300)
    return Path(order=order, losses=[0.0, *gone.tolist()])

"""Optimal brain surgeon for structures, with intercept: which inputs a linear can best do without, and its best rest.

A linear reads x and writes W x. Without the inputs of a set P, and with the best weights for the others S, a constant b
included, its output loses

    min over W', b of E |W x - W' x_S - b|²  =  tr(W_P ((C⁻¹)_PP)⁻¹ W_Pᵀ),    C = E (x - μ)(x - μ)ᵀ + λ I

so the unit of least (C⁻¹)-weighted norm goes first (LeCun et al. 1990, Hassibi & Stork 1993; for structures: Kurtic et
al., ZipLM, arXiv 2302.04089, Ling et al., SlimGPT, arXiv 2412.18110). What stays is updated exactly,

    W   ← W   - W_:P ((C⁻¹)_PP)⁻¹ (C⁻¹)_P:           C⁻¹ ← C⁻¹ - (C⁻¹)_:P ((C⁻¹)_PP)⁻¹ (C⁻¹)_P:

and the losses of the steps add up to that of the whole set. At the end the rest is solved once more, for the outputs
of the *original* linear on its own inputs x°, from the inputs x that the pruned layers before it leave, so that it
makes up for their errors as well:

    W'_S = W_S + E[(W(x° - μ°) - W_S(x_S - μ_S)) (x_S - μ_S)ᵀ] (C_SS + λ I)⁻¹,       b' = b + W μ° - W'_S μ_S

Where we depart: the covariance and not the second moment, since the mean goes into a bias; λ pulls towards the weights
as they were, not to zero, and for W' it is as large as held-out windows ask for (``ridge``); tokens count by what they
are of the residual stream (``moments``). Where no bias can be held, the same without μ: moments about zero.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import torch

from edgepress.compress.prune.ridge import DAMPINGS, Sums, factor, ridge

DAMPING = 1e-2  # λ of a path, of the mean variance
_AT_ONCE = 8  # units removed between updates


class Units(msgspec.Struct, frozen=True, kw_only=True):
    """How a linear's inputs fall into units: ``count`` of ``size`` neighbouring columns each.

    ``classes``: equal runs of units that have to lose the same number. ``step``: units are removed in multiples of it.
    """

    count: int
    size: int = 1
    classes: int = 1
    step: int = 1

    def columns(self, units: torch.Tensor) -> torch.Tensor:
        """Indices of the columns of some units."""
        return (units[:, None] * self.size + torch.arange(self.size)).flatten()


class Path(msgspec.Struct, frozen=True, kw_only=True):
    """Units in the order of their removal, and the loss once k · step of them are gone, k = 0, 1, …"""

    order: torch.Tensor
    losses: list[float]

    def kept(self, count: int, removed: int) -> torch.Tensor:
        """The units left of ``count``, in ascending order."""
        stays = torch.ones(count, dtype=torch.bool)
        stays[self.order[:removed]] = False
        return stays.nonzero().flatten()


class Moments(msgspec.Struct, frozen=True, kw_only=True):
    """Of the inputs x of a linear, float64; x° is what the original model has there.

    mean, original_mean   μ, μ°; zeros where they are not taken out
    covariance            E (x - μ)(x - μ)ᵀ
    cross                 E (x° - μ°)(x - μ)ᵀ
    """

    mean: torch.Tensor
    original_mean: torch.Tensor
    covariance: torch.Tensor
    cross: torch.Tensor


def removal_path(
    weight: torch.Tensor, covariance: torch.Tensor, units: Units, removed: int, damping: float = DAMPING
) -> Path:
    """Remove units greedily.

    Args:
        weight: W, float64, (outputs, units.count · units.size).
        covariance: C without λ, float64.
        units: what may be removed.
        removed: how many, a multiple of ``units.step``.
        damping: λ as a share of the mean variance.
    """
    rest = _Rest(weight, factor(covariance, damping), units)
    order: list[int] = []
    losses = [0.0]
    while len(order) < removed:
        lost, boundary = losses[-1], len(order) + units.step
        while len(order) < boundary:
            for members in _next(units, boundary - len(order)):
                gone, loss = rest.remove_least(*members)
                order += gone
                lost += loss
        losses.append(lost)
    return Path(order=torch.tensor(order, dtype=torch.long), losses=losses)


class RestChoice(msgspec.Struct, frozen=True, kw_only=True):
    """How the rest is solved: λ as a share of the mean variance, None for the weights as they were; and whether the
    constant makes up for the means.
    """

    damping: float | None
    intercept: bool


def choose_rest(weight: torch.Tensor, first: Moments, second: Moments, columns: torch.Tensor) -> RestChoice:
    """The choice that loses least on ``second`` when the rest is solved on ``first``; to leave all as it was is one.

    Args:
        weight: W, float64, (outputs, inputs).
        first: moments of some inputs.
        second: of others, about their own means.
        columns: S, those that stay.
    """
    square = (second.covariance + torch.outer(second.mean, second.mean))[columns][:, columns]
    target = weight @ (second.cross + torch.outer(second.original_mean, second.mean))[:, columns]
    outputs, inputs = weight @ second.original_mean, second.mean[columns]
    losses: dict[RestChoice, float] = {}
    sums = _rest_sums(weight, first, columns)
    for choice in _CHOICES:
        solved, constant = solve_rest(weight, first, columns, choice, sums)
        lost = ((solved @ square - 2 * target) * solved).sum() + constant @ (constant - 2 * (outputs - solved @ inputs))
        losses[choice] = float(lost)
    return min(losses, key=lambda choice: losses[choice])


def solve_rest(
    weight: torch.Tensor, moments: Moments, columns: torch.Tensor, choice: RestChoice, sums: Sums | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best weights of the columns that stay, (outputs, kept), and what is to be added to the bias, (outputs,).

    Args:
        weight: W, float64, (outputs, inputs).
        moments: of the inputs.
        columns: S, those that stay.
        choice: how.
        sums: what is regressed, where it is known by now.
    """
    solved = weight[:, columns]
    if choice.damping is not None:
        solved = solved + ridge(sums or _rest_sums(weight, moments, columns), choice.damping)
    constant = weight @ moments.original_mean - solved @ moments.mean[columns]
    return solved, constant if choice.intercept else torch.zeros_like(constant)


_CHOICES = (
    RestChoice(damping=None, intercept=False),
    *(RestChoice(damping=damping, intercept=True) for damping in (None, *DAMPINGS)),
)


def _rest_sums(weight: torch.Tensor, moments: Moments, columns: torch.Tensor) -> Sums:
    """Of the columns that stay, and of what their outputs lack."""
    square = moments.covariance[columns][:, columns]
    return Sums(square=square, missing=weight @ moments.cross[:, columns] - weight[:, columns] @ square)


def _next(units: Units, missing: int) -> Iterator[tuple[int, int, int]]:
    """What a round removes: (first unit, one past the last, how many) of each class."""
    width = units.count // units.classes
    each = min(_AT_ONCE, missing // units.classes) if units.size == 1 else 1
    for start in range(0, units.count, width):
        yield start, start + width, each


class _Rest:
    """What has not been removed: its weights so far, its block of C⁻¹, and which units it holds."""

    def __init__(self, weight: torch.Tensor, lower: torch.Tensor, units: Units) -> None:
        self._weight = weight.clone()
        self._inverse = torch.cholesky_inverse(lower)
        self._units = units
        self._held = torch.arange(units.count)

    def remove_least(self, start: int, stop: int, count: int) -> tuple[list[int], float]:
        """Remove the ``count`` units of least score among start … stop - 1; which, and what it costs."""
        scores = self._scores()
        scores[(self._held < start) | (self._held >= stop)] = torch.inf
        places = scores.topk(count, largest=False).indices
        gone = self._held[places].tolist()
        return gone, self._remove(places)

    def _scores(self) -> torch.Tensor:
        """Loss of removing each unit alone."""
        if self._units.size == 1:
            return self._weight.square().sum(0) / self._inverse.diagonal()
        size = self._units.size
        blocks = self._inverse.view(len(self._held), size, -1, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        parts = self._weight.view(len(self._weight), -1, size).permute(1, 2, 0)  # (units, size, outputs)
        scores: torch.Tensor = (parts * torch.linalg.solve(blocks, parts)).sum((1, 2))
        return scores

    def _remove(self, places: torch.Tensor) -> float:
        gone = self._units.columns(places)
        stays = torch.ones(self._weight.shape[1], dtype=torch.bool)
        stays[gone] = False
        factor = torch.linalg.cholesky(self._inverse[gone][:, gone])
        beside = self._inverse[gone][:, stays]
        lost = self._weight[:, gone]
        solved = torch.cholesky_solve(lost.T, factor).T
        self._weight = self._weight[:, stays] - solved @ beside
        self._inverse = self._inverse[stays][:, stays] - beside.T @ torch.cholesky_solve(beside, factor)
        held = torch.ones(len(self._held), dtype=torch.bool)
        held[places] = False
        self._held = self._held[held]
        return float((solved * lost).sum())

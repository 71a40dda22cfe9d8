"""The surgeon's losses and rests are those of exact least squares, by definition, in float64."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgepress.compress.prune.obs import Moments, RestChoice, Units, choose_rest, removal_path, solve_rest
from edgepress.compress.prune.ridge import DAMPINGS

Wide = NDArray[np.float64]
TOKENS = 400


def inputs(columns: int, seed: int = 0) -> Wide:
    rng = np.random.default_rng(seed)
    mixed: Wide = rng.standard_normal((TOKENS, columns)) @ rng.standard_normal((columns, columns))
    return mixed + rng.standard_normal(columns)


def weight(rows: int, columns: int) -> Wide:
    drawn: Wide = np.random.default_rng(1).standard_normal((rows, columns))
    return drawn


def covariance(x: Wide) -> torch.Tensor:
    return torch.from_numpy(np.cov(x.T, bias=True))


def moments(original: Wide, x: Wide) -> Moments:
    means = original.mean(0), x.mean(0)
    cross = (original - means[0]).T @ (x - means[1]) / len(x)
    return Moments(
        mean=torch.from_numpy(means[1]),
        original_mean=torch.from_numpy(means[0]),
        covariance=covariance(x),
        cross=torch.from_numpy(cross),
    )


def with_lambda(damping: float) -> RestChoice:
    return RestChoice(damping=damping, intercept=True)


def fitted(x: Wide, outputs: Wide, kept: list[int], *, intercept: bool = True) -> tuple[Wide, Wide, float]:
    """Weights, constant and mean squared error of numpy's least squares."""
    ones = np.ones((len(x), 1)) if intercept else np.zeros((len(x), 0))
    design = np.hstack([x[:, kept], ones])
    solution: Wide = np.linalg.lstsq(design, outputs, rcond=None)[0].astype(np.float64)
    loss = float(((design @ solution - outputs) ** 2).sum() / len(x))
    constant: Wide = solution[-1] if intercept else np.zeros(outputs.shape[1])
    return solution[: len(kept)].T, constant, loss


@pytest.mark.parametrize(
    "units",
    [Units(count=12), Units(count=12, step=4), Units(count=4, size=3), Units(count=6, size=2, classes=3, step=3)],
)
def test_the_loss_of_a_path_is_that_of_least_squares_without_the_removed_columns(units: Units) -> None:
    x, w = inputs(12), weight(5, 12)
    removed = units.count - units.step
    path = removal_path(torch.from_numpy(w), covariance(x), units, removed, damping=0)
    assert path.losses[0] == 0 and len(path.losses) == removed // units.step + 1
    for k, loss in enumerate(path.losses):
        kept = units.columns(path.kept(units.count, k * units.step)).tolist()
        assert loss == pytest.approx(fitted(x, x @ w.T, kept)[2], rel=1e-8, abs=1e-9)


def test_the_first_unit_removed_is_the_best_one_of_all() -> None:
    x, w = inputs(9), weight(4, 9)
    losses = [fitted(x, x @ w.T, [j for j in range(9) if j != gone])[2] for gone in range(9)]
    path = removal_path(torch.from_numpy(w), covariance(x), Units(count=9), 1, damping=0)
    assert path.order.tolist() == [int(np.argmin(losses))]


def test_greedy_removal_comes_close_to_the_best_subset() -> None:
    found = []
    for seed in range(8):
        x, w = inputs(10, seed), weight(4, 10)
        best = min(fitted(x, x @ w.T, list(kept))[2] for kept in combinations(range(10), 6))
        found.append(removal_path(torch.from_numpy(w), covariance(x), Units(count=10), 4, damping=0).losses[-1] / best)
    assert np.median(found) < 1.1
    assert min(found) > 1 - 1e-9


def test_classes_lose_the_same_number_of_units() -> None:
    x, w = inputs(12), weight(5, 12)
    path = removal_path(torch.from_numpy(w), covariance(x), Units(count=6, size=2, classes=3, step=3), 3)
    assert sorted(unit // 2 for unit in path.order.tolist()) == [0, 1, 2]


def test_the_rest_is_the_least_squares_fit_of_the_original_outputs_from_the_pruned_inputs() -> None:
    original, w, kept = inputs(8), weight(5, 8), [0, 2, 3, 7]
    x = original + 0.3 * inputs(8, seed=5)
    solved, bias = solve_rest(
        torch.from_numpy(w), moments(original, x), torch.tensor(kept), RestChoice(damping=0.0, intercept=True)
    )
    wanted, constant, _ = fitted(x, original @ w.T, kept)
    np.testing.assert_allclose(solved.numpy(), wanted, atol=1e-9)
    np.testing.assert_allclose(bias.numpy(), constant, atol=1e-9)


def test_without_an_intercept_it_is_the_fit_through_zero() -> None:
    x, w, kept = inputs(8), weight(5, 8), [1, 4, 6]
    second, zero = torch.from_numpy(x.T @ x / TOKENS), torch.zeros(8, dtype=torch.float64)
    about_zero = Moments(mean=zero, original_mean=zero, covariance=second, cross=second)
    solved, bias = solve_rest(
        torch.from_numpy(w), about_zero, torch.tensor(kept), RestChoice(damping=0.0, intercept=True)
    )
    np.testing.assert_allclose(solved.numpy(), fitted(x, x @ w.T, kept, intercept=False)[0], atol=1e-9)
    assert not bias.any()


def test_damping_pulls_towards_the_weights_as_they_were() -> None:
    x, w, kept = inputs(8), weight(5, 8), [0, 1, 2]
    solved, _ = solve_rest(
        torch.from_numpy(w), moments(x, x), torch.tensor(kept), RestChoice(damping=1e9, intercept=True)
    )
    np.testing.assert_allclose(solved.numpy(), w[:, kept], atol=1e-6)


def test_with_nothing_removed_and_nothing_drifted_the_weights_stay() -> None:
    x, w = inputs(8), weight(5, 8)
    solved, bias = solve_rest(
        torch.from_numpy(w), moments(x, x), torch.arange(8), RestChoice(damping=0.01, intercept=True)
    )
    np.testing.assert_allclose(solved.numpy(), w, atol=1e-12)
    np.testing.assert_allclose(bias.numpy(), 0, atol=1e-12)


@pytest.mark.parametrize(("tokens", "spread"), [(12, 0.0), (30, 0.0), (300, 0.0), (30, 3.0)])
def test_the_choice_is_the_one_that_loses_least_on_other_text(tokens: int, spread: float) -> None:
    """By definition: rests solved on a few tokens and tried on others."""
    rng = np.random.default_rng(tokens)
    mixing, w, kept = rng.standard_normal((12, 12)), weight(5, 12), list(range(9))
    before = [rng.standard_normal((count, 12)) @ mixing + 1 for count in (tokens, 1000)]
    after = [x + spread * rng.standard_normal(x.shape) for x in before]
    first, second = (moments(x, y) for x, y in zip(before, after, strict=True))
    found = choose_rest(torch.from_numpy(w), first, second, torch.tensor(kept))
    lost = {}
    for choice in [
        RestChoice(damping=None, intercept=False),
        *(RestChoice(damping=damping, intercept=True) for damping in (None, *DAMPINGS)),
    ]:
        solved, constant = solve_rest(torch.from_numpy(w), first, torch.tensor(kept), choice)
        lost[choice] = float(((before[1] @ w.T - after[1][:, kept] @ solved.numpy().T - constant.numpy()) ** 2).sum())
    assert lost[found] == min(lost.values())

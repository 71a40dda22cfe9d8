"""The regression is plain weighted least squares with a ridge, and held-out windows decide how large that is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgepress.compress.prune.ridge import DAMPINGS, HeldOut, Regression, Sums, best_damping, factor, token_weights
from edgepress.errors import InputError

RANDOM = np.random.default_rng(0)
WINDOWS, TOKENS, INPUTS, OUTPUTS = 16, 12, 20, 7
MANY = 50  # outputs, of which the damping is found another way


def draw(
    noise: float, windows: int = WINDOWS, outputs: int = OUTPUTS
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, what a linear of them and noise give, and weights."""
    inputs = RANDOM.normal(size=(windows, TOKENS, INPUTS))
    true = RANDOM.normal(size=(outputs, INPUTS))
    missing = inputs @ true.T + noise * RANDOM.normal(size=(windows, TOKENS, outputs))
    weights = RANDOM.uniform(0.2, 3, size=(windows, TOKENS, 1))
    return torch.from_numpy(inputs), torch.from_numpy(missing), torch.from_numpy(weights)


def least_squares(x: np.ndarray, m: np.ndarray, w: np.ndarray, damping: float) -> np.ndarray:
    """By numpy's solver, on rows that stand for the ridge."""
    x, m, root = x.reshape(-1, INPUTS), m.reshape(-1, m.shape[-1]), np.sqrt(w.reshape(-1, 1))
    size = damping * np.mean(np.sum((x * root) ** 2, 0))
    rows = np.concatenate([x * root, np.sqrt(size) * np.eye(INPUTS)])
    found: np.ndarray = np.linalg.lstsq(rows, np.concatenate([m * root, np.zeros((INPUTS, m.shape[1]))]), rcond=None)[
        0
    ].T
    return found


@pytest.mark.parametrize("outputs", [OUTPUTS, MANY])
@pytest.mark.parametrize("noise", [0.1, 10.0, 30.0])
def test_the_damping_is_the_one_that_is_best_on_held_out_windows(noise: float, outputs: int) -> None:
    inputs, missing, weights = draw(noise, outputs=outputs)
    held = np.arange(WINDOWS) % 4 == 3
    lost = {}
    for damping in DAMPINGS:
        change = least_squares(inputs[~held].numpy(), missing[~held].numpy(), weights[~held].numpy(), damping)
        rest = missing[held].numpy() - inputs[held].numpy() @ change.T
        lost[damping] = float((weights[held].numpy() * rest**2).sum())
    best = min(lost, key=lambda damping: lost[damping])
    nothing = float((weights[held] * missing[held] ** 2).sum())
    expected = least_squares(inputs.numpy(), missing.numpy(), weights.numpy(), best) if lost[best] < nothing else 0.0
    regression = Regression(INPUTS, outputs, WINDOWS, "down")
    for start in range(0, WINDOWS, 3):  # batches that do not divide into fours
        regression.add(*(part[start : start + 3] for part in (inputs, missing, weights)))
    np.testing.assert_allclose(regression.change().numpy(), expected, atol=1e-9)
    assert best == DAMPINGS[0] if noise < 1 else best > DAMPINGS[0]


def test_noise_asks_for_a_ridge_between_the_least_and_the_greatest() -> None:
    """Where the best λ is σ² / (n |w|² / inputs) = 1.6 in the mean, the one that is taken lies about it."""
    random = np.random.default_rng(5)
    taken = []
    for _ in range(20):
        x = torch.from_numpy(random.normal(size=(16, 12, INPUTS)))
        noise = torch.from_numpy(15 * random.normal(size=(16, 12, OUTPUTS)))
        missing = x @ torch.from_numpy(random.normal(size=(OUTPUTS, INPUTS))).T + noise
        sums = [Sums(square=a.T @ a, missing=m.T @ a) for a, m in _halves(x, missing)]
        found = best_damping(sums[0], sums[1])
        taken.append(DAMPINGS[-1] if found is None else found)
    assert 0.3 <= np.median(taken) <= 3.0


def _halves(x: torch.Tensor, missing: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Three windows in four, and the fourth."""
    held = np.arange(len(x)) % 4 == 3
    return [(x[part].flatten(0, 1), missing[part].flatten(0, 1)) for part in (~held, held)]


@pytest.mark.parametrize("scale", [1.0, 1e-12])
def test_inputs_that_never_vary_have_a_factor(scale: float) -> None:
    """Their variance is what rounding leaves of E x² - (E x)², of either sign."""
    noise = RANDOM.normal(size=(INPUTS, INPUTS)) * scale
    square = torch.from_numpy(noise + noise.T - 3 * scale * np.eye(INPUTS))
    assert square.diagonal().mean() < 0
    lower = factor(square, 0.01)
    assert lower.isfinite().all()
    added = (lower @ lower.T - square).diagonal()
    assert added.min() == pytest.approx(float(added.max()), rel=1e-6) and added.min() > 0


def test_a_token_of_no_energy_does_not_own_the_sums() -> None:
    stream = torch.from_numpy(RANDOM.normal(size=(4, 9, 32)))
    stream[1, 3] = 1e-9
    weights = token_weights(stream)
    energy = stream.square().mean(-1, keepdim=True)
    assert float(weights[1, 3]) == pytest.approx(1e3 / float(energy.median()))
    others = torch.ones(4, 9, 1).bool()
    others[1, 3] = False
    torch.testing.assert_close(weights[others], 1 / energy[others])


def test_what_cannot_be_learned_is_left_alone() -> None:
    inputs, _, weights = draw(0.0, 8)
    regression = Regression(INPUTS, OUTPUTS, 8, "down")
    # In windows that are held out the sign is the other one.
    signs = torch.where(torch.arange(8) % 4 == 3, -1.0, 1.0)[:, None, None]
    regression.add(inputs, inputs[..., :OUTPUTS] * signs, weights)
    assert not regression.change().any()


@pytest.mark.parametrize("windows", [1, 2, 3])
def test_little_text_holds_out_its_end(windows: int) -> None:
    inputs, missing, weights = draw(3.0, windows)
    held = np.zeros((windows, TOKENS), bool)
    held[-1, (TOKENS - TOKENS // 4) * (windows == 1) :] = True
    lost = {}
    for damping in DAMPINGS:
        change = least_squares(inputs.numpy()[~held], missing.numpy()[~held], weights.numpy()[~held], damping)
        rest = missing.numpy()[held] - inputs.numpy()[held] @ change.T
        lost[damping] = float((weights.numpy()[held] * rest**2).sum())
    best = min(lost, key=lambda damping: lost[damping])
    assert lost[best] < float((weights.numpy()[held] * missing.numpy()[held] ** 2).sum())
    regression = Regression(INPUTS, OUTPUTS, windows, "down")
    regression.add(inputs, missing, weights)
    expected = least_squares(inputs.numpy(), missing.numpy(), weights.numpy(), best)
    np.testing.assert_allclose(regression.change().numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 3])
def test_what_is_not_finite_is_refused(value: float, place: int) -> None:
    inputs, missing, weights = draw(0.1, 4)
    missing[place, 0, 0] = value
    regression = Regression(INPUTS, OUTPUTS, 4, "down")
    regression.add(inputs, missing, weights)
    with pytest.raises(InputError, match="not finite"):
        regression.change()


@pytest.mark.parametrize(
    ("windows", "every", "expected"),
    [(3, 4, [2]), (4, 4, [3]), (9, 4, [3, 7]), (4, 8, [3]), (7, 8, [6]), (8, 8, [7]), (17, 8, [7, 15])],
)
def test_one_window_in_so_many_is_held_out_and_at_least_one(windows: int, every: int, expected: list[int]) -> None:
    held_out, found = HeldOut(windows, every), list[torch.Tensor]()
    for start in range(0, windows, 3):
        found.append(held_out.of(torch.zeros(min(3, windows - start), 5, 2)))
    chosen = torch.cat(found)
    assert chosen.shape == (windows, 5)
    assert chosen.all(1).nonzero().flatten().tolist() == chosen.any(1).nonzero().flatten().tolist() == expected


@pytest.mark.parametrize("every", [4, 8])
def test_of_a_single_window_the_end_is_held_out(every: int) -> None:
    assert HeldOut(1, every).of(torch.zeros(1, 12, 2)).tolist() == [[False] * 9 + [True] * 3]

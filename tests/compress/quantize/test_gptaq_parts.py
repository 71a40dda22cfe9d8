"""The parts of GPTAQ do what their equations say, by float64 brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from layer_inputs import correlated, exact_error, moments, weights

from edgepress.artifact.formats import FORMATS, Format, get_format
from edgepress.compress.quantize.gptaq.block import factors_of, solve_block
from edgepress.compress.quantize.gptaq.descent import Descent
from edgepress.compress.quantize.gptaq.grid import Grid
from edgepress.compress.quantize.gptaq.lattice import Lattice
from edgepress.compress.quantize.gptaq.refit import refit
from edgepress.compress.quantize.gptaq.rounded import Rounded
from edgepress.compress.quantize.gptaq.sweep import sweep, upper_factor
from edgepress.compress.quantize.gptaq.target import asymmetric_target, damped

BLOCK_FORMATS = [name for name, spec in FORMATS.items() if spec.kind != "float"]


def test_every_token_counts_alike_whatever_its_size() -> None:
    inputs = correlated(32)
    original = inputs + 0.1 * correlated(32, seed=7)
    factor = np.exp(3 * np.random.default_rng(3).standard_normal((len(inputs), 1)))
    plain, scaled = moments(inputs, original), moments(factor * inputs, factor * original)
    np.testing.assert_allclose(scaled.hessian.numpy(), plain.hessian.numpy(), rtol=1e-9)
    unit = inputs / np.sqrt((inputs**2).mean(axis=1, keepdims=True))
    np.testing.assert_allclose(plain.hessian.numpy(), unit.T @ unit / len(unit), rtol=1e-9)
    drift = ((original - inputs).T @ (inputs / (inputs**2).mean(axis=1, keepdims=True))) / len(inputs)
    assert plain.drift is not None and scaled.drift is not None
    np.testing.assert_allclose(plain.drift.numpy(), drift, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(scaled.drift.numpy(), drift, rtol=1e-7, atol=1e-9)


def test_a_token_of_zeros_counts_for_nothing() -> None:
    inputs = correlated(32, tokens=50)
    inputs[3] = 0
    assert torch.isfinite(moments(inputs).hessian).all()


def test_at_full_strength_the_target_is_the_least_squares_fit_to_the_original_outputs() -> None:
    original = correlated(48)
    inputs = original + 0.2 * correlated(48, seed=9) + 0.1 * original[:, ::-1]
    scale = 1 / np.sqrt((inputs**2).mean(axis=1, keepdims=True))
    weight = weights(6, 48)
    statistics = moments(inputs, original)
    found = asymmetric_target(torch.from_numpy(weight), statistics, statistics.hessian, strength=1.0)
    expected, *_ = np.linalg.lstsq(scale * inputs, scale * (original @ weight.T.astype(np.float64)), rcond=None)
    np.testing.assert_allclose(found.numpy(), expected.T, rtol=2e-4, atol=1e-5)


def test_without_drift_the_target_is_the_weights() -> None:
    inputs, weight = correlated(32), torch.from_numpy(weights(4, 32))
    statistics = moments(inputs, inputs)
    assert torch.equal(asymmetric_target(weight, statistics, statistics.hessian), weight)


def tiny_format(levels: tuple[int, ...], width: int) -> Format:
    return Format(
        name=f"test{len(levels)}", kind="block", bits=2, block=width, sub_block=width, block_bytes=1, levels=levels
    )


@pytest.mark.parametrize("levels", [(-2, -1, 0, 1), (-7, -2, 1, 5)])
def test_descent_ends_where_no_single_integer_can_be_moved_to_advantage(levels: tuple[int, ...]) -> None:
    grid = Grid(tiny_format(levels, 4))
    hessian = damped(moments(correlated(12)).hessian)
    target = torch.from_numpy(weights(16, 12))
    state = sweep(target, upper_factor(hessian), hessian.diagonal().float(), grid.spec, grid)
    before = exact_error(state, target, hessian)
    descent = Descent(hessian, 4, grid)
    for _ in range(6):
        descent.improve(state, target, search=False)
    after = exact_error(state, target, hessian)
    assert (after <= before * (1 + 1e-5)).all()
    for column, level in itertools.product(range(12), levels):
        moved = Rounded(grid.spec, state.levels.clone(), state.scale, state.minimum)
        moved.levels[:, column] = level
        assert (exact_error(moved, target, hessian) >= after * (1 - 1e-4)).all()


@pytest.mark.parametrize("levels", [(-2, -1, 0, 1), (-7, -2, 1, 5)])
def test_a_block_is_close_to_the_best_of_all_codes_and_scales(levels: tuple[int, ...]) -> None:
    grid = Grid(tiny_format(levels, 4))
    hessian = damped(moments(correlated(16)).hessian)[:4, :4]
    weight = torch.from_numpy(weights(40, 4))
    found = solve_block(weight, factors_of(hessian), grid, Lattice())
    values = (found.levels * found.scale[:, None]).double().numpy()
    error = np.einsum("ri,ij,rj->r", values - weight.numpy(), hessian.numpy(), values - weight.numpy())
    np.testing.assert_allclose(found.loss.numpy(), error, rtol=1e-3)
    codes = np.array(list(itertools.product(levels, repeat=4)), dtype=np.float64)
    pressed = codes @ hessian.numpy()
    energy = (pressed * codes).sum(1)
    cross = weight.double().numpy() @ pressed.T
    gain = np.divide(cross**2, energy, out=np.zeros_like(cross), where=energy > 0).max(1)
    best = np.einsum("ri,ij,rj->r", weight.numpy(), hessian.numpy(), weight.numpy()) - gain
    assert error.sum() < 1.25 * best.sum()
    assert (error >= best * (1 - 1e-2) - 1e-9).all()


@pytest.mark.parametrize("format", ["q4_0", "q4_1", "iq4_nl", "q4_K", "q6_K", "iq4_xs", "q3_K", "int8", "trt_int4_64"])
def test_refitted_scales_are_the_least_squares_solution_and_never_worse(format: str) -> None:
    spec, columns = get_format(format), 256
    hessian = damped(moments(correlated(columns)).hessian)
    target = torch.from_numpy(weights(5, columns))
    state = sweep(target, upper_factor(hessian), hessian.diagonal().float(), spec, Grid(spec))
    # Away from the optimum by more than fp16 rounding, on a lattice that stays exact.
    state.scale, state.minimum = 1.25 * state.scale, 1.25 * state.minimum
    if state.super_scale is not None:
        state.super_scale = 1.25 * state.super_scale
        state.super_minimum = None if state.super_minimum is None else 1.25 * state.super_minimum
    before = exact_error(state, target, hessian)
    levels = state.levels.clone()
    refit(state, target, hessian.float())
    after = exact_error(state, target, hessian)
    assert (after < before).all() and torch.equal(state.levels, levels)
    # A scale rounded to fp16 is off by up to 2^-11 of itself.
    rounding = 2.0**-22 * exact_error(Rounded.empty(spec, 5, columns), target, hessian)
    for row in range(5):
        best = _least_squares(state, row, target, hessian)
        assert after[row] <= best * (1 + 2e-3) + 2 * rounding[row]
        assert after[row] >= best * (1 - 1e-3)


def _least_squares(state: Rounded, row: int, target: torch.Tensor, hessian: torch.Tensor) -> float:
    """The least error over all real scales (super scales for the K types), by a whitened dense solve."""
    levels = state.levels[row].double().numpy()
    ones = np.ones_like(levels)
    width = state.width
    if state.super_scale is not None:
        fine, offsets = (np.repeat(part[row].double().numpy(), width) for part in state.integers())
        levels, ones, width = levels * fine, offsets, state.spec.block
    owner = np.arange(len(levels)) // width
    basis = [np.where(owner == block, levels, 0) for block in range(owner.max() + 1)]
    if state.spec.has_min:
        basis += [np.where(owner == block, ones, 0) for block in range(owner.max() + 1)]
    root = np.linalg.cholesky(hessian.numpy()).T
    _, residual, *_ = np.linalg.lstsq(root @ np.array(basis).T, root @ target[row].double().numpy(), rcond=None)
    return float(residual[0])

"""The head alone is the optimum, whatever the labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgepress.compress.classify.head import Head, cross_entropy, divergence, fit_head, loss_and_gradient, standard


def problem(texts: int = 120, width: int = 17, labels: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    features = random.normal(size=(texts, width))
    logits = features @ random.normal(size=(width, labels)) + random.normal(size=labels)
    targets = np.exp(logits - logits.max(axis=1, keepdims=True))
    return features, targets / targets.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("ridge", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("bias", [True, False])
def test_the_gradient_is_zero_at_the_solution(ridge: float, bias: bool) -> None:
    features, targets = problem()
    head = fit_head(features, targets, ridge, bias=bias)
    slope = loss_and_gradient(head, features, targets, ridge)[1]
    assert np.abs(slope.weight).max() < 1e-6
    assert np.abs(slope.bias).max() < 1e-6 or not bias
    assert bias or not head.bias.any()


def test_loss_and_gradient_are_those_of_torch() -> None:
    features, targets = problem()
    random = np.random.default_rng(3)
    head = Head(random.normal(size=(3, 17)), random.normal(size=3))
    loss, slope = loss_and_gradient(head, features, targets, 0.1)
    weight, bias = (torch.tensor(each, requires_grad=True) for each in head)
    logits = torch.tensor(features) @ weight.T + bias
    theirs = torch.nn.functional.cross_entropy(logits, torch.tensor(targets)) + 0.05 * (weight**2).sum()
    torch.autograd.backward(theirs)
    assert weight.grad is not None
    assert bias.grad is not None
    assert loss == pytest.approx(float(theirs.detach()), rel=1e-12)
    np.testing.assert_allclose(slope.weight, weight.grad.numpy(), atol=1e-12)
    np.testing.assert_allclose(slope.bias, bias.grad.numpy(), atol=1e-12)


def test_soft_labels_from_a_linear_teacher_give_the_teacher_back() -> None:
    features, targets = problem(texts=400)
    head = fit_head(features, targets, 1e-7)
    assert divergence(head.logits(features), targets) < 1e-4


@pytest.mark.parametrize("centred", [True, False])
def test_a_head_of_standardised_features_is_one_of_raw_features(centred: bool) -> None:
    features, targets = problem()
    features = features * np.linspace(0.01, 50, 17) + (7 if centred else 0)
    features[:, 4] = 0.0 if not centred else 3.0  # a constant one
    scale = standard(features, centred=centred)
    head = fit_head(scale.apply(features), targets, 0.01, bias=centred)
    raw = scale.undo(head)
    np.testing.assert_allclose(raw.logits(features), head.logits(scale.apply(features)), atol=1e-9)
    assert centred or not raw.bias.any()


def test_the_divergence_of_a_distribution_from_itself_is_zero() -> None:
    targets = np.array([[0.2, 0.8], [1.0, 0.0]])
    with np.errstate(divide="ignore"):
        logits = np.maximum(np.log(targets), -1e3)
    assert divergence(logits, targets) == pytest.approx(0, abs=1e-12)
    assert divergence(np.zeros((2, 2)), targets) == pytest.approx(
        (0.2 * np.log(0.4) + 0.8 * np.log(1.6) + np.log(2)) / 2
    )
    assert cross_entropy(np.zeros((2, 2)), targets) == pytest.approx(np.log(2))

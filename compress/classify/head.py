"""A classification head on frozen features: multinomial logistic regression on soft labels, to the optimum.

    J(W, b) = mean_i Σ_k -p_ik log softmax(W x_i + b)_k + ridge / 2 ‖W‖²

Convex, so that the answer is one, whatever the start; solved by L-BFGS in float64 in a second. The features are
standardised, for the ridge to mean the same in every channel, and the solution is put in terms of the raw ones.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import require

Array = NDArray[np.float64]
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_STEPS, _FLAT = 5000, 1e-9


class Head(NamedTuple):
    """Weights (labels, features) and bias (labels,)."""

    weight: Array
    bias: Array

    def logits(self, features: Array) -> Array:
        """(texts, labels)."""
        found: Array = features @ self.weight.T + self.bias
        return found


class Standard(NamedTuple):
    """Mean and spread of every feature, (features,)."""

    mean: Array
    spread: Array

    def apply(self, features: Array) -> Array:
        """Features of mean 0 and spread 1."""
        scaled: Array = (features - self.mean) / self.spread
        return scaled

    def undo(self, head: Head) -> Head:
        """A head of standardised features as one of raw features."""
        weight = head.weight / self.spread
        return Head(weight, head.bias - weight @ self.mean)


def standard(features: Array, *, centred: bool = True) -> Standard:
    """Mean and spread over texts; a constant feature stays as it is. A head without a bias cannot be centred."""
    mean = features.mean(axis=0) if centred else np.zeros(features.shape[1])
    spread = np.sqrt(((features - mean) ** 2).mean(axis=0))
    return Standard(mean, np.where(spread > 1e-12, spread, 1.0))


def cross_entropy(logits: Array, targets: Array) -> float:
    """Mean over texts of Σ -p log softmax(logits), in nats; (texts, labels) both."""
    return float(-(targets * _log_softmax(logits)).sum(axis=1).mean())


def divergence(logits: Array, targets: Array) -> float:
    """Mean KL divergence of softmax(logits) from the targets, in nats; (texts, labels) both."""
    with np.errstate(divide="ignore", invalid="ignore"):
        own = np.where(targets > 0, targets * np.log(targets), 0.0)
    return float(own.sum(axis=1).mean()) + cross_entropy(logits, targets)


def loss_and_gradient(head: Head, features: Array, targets: Array, ridge: float) -> tuple[float, Head]:
    """J, and its derivatives by weight and bias."""
    logits = head.logits(features)
    off = (np.exp(_log_softmax(logits)) - targets) / len(features)
    loss = cross_entropy(logits, targets) + 0.5 * ridge * float((head.weight**2).sum())
    return loss, Head(off.T @ features + ridge * head.weight, off.sum(axis=0))


def fit_head(features: Array, targets: Array, ridge: float, *, bias: bool = True) -> Head:
    """The head that minimises J.

    Args:
        features: (texts, features).
        targets: probabilities, (texts, labels).
        ridge: positive.
        bias: whether there is one; else it stays 0.
    """
    labels, width = targets.shape[1], features.shape[1]

    def unpack(flat: Array) -> Head:
        return Head(flat[: labels * width].reshape(labels, width), flat[labels * width :])

    def objective(flat: Array) -> tuple[float, Array]:
        loss, slope = loss_and_gradient(unpack(flat), features, targets, ridge)
        return loss, np.concatenate([slope.weight.reshape(-1), slope.bias * bias])

    optimize = require("scipy.optimize", "compress")
    options = {"maxiter": _STEPS, "maxfun": 2 * _STEPS, "gtol": _FLAT, "ftol": 0.0, "maxcor": 30}
    start = np.zeros(labels * (width + 1))
    found = optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    return unpack(np.asarray(found.x, np.float64))


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=1, keepdims=True)
    found: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found

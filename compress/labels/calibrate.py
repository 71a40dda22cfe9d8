"""Take off what a teacher would say whatever the text.

A teacher leans towards some labels: their words are commoner, or come last in its prompts. Its scores are corrected by
one number per label:

    q(y | x) ∝ p(y | x) / exp(lean_y)         p normalised over the labels

    contextual   lean = log mean p(y | content-free text)             Zhao et al., arXiv 2102.09690
    batch        lean = log mean p(y | x), x the unlabelled texts     Zhou et al., arXiv 2309.17249
    prior        the lean with which mean q(y | x) is a given prior

Contextual: the paper puts a second softmax over W p, which we leave out, so that a constant leaning vanishes exactly.
Prior: batch calibration is one step of its iteration, the same as the label shift correction of Saerens et al. (Neural
Computation 14, 2002) run towards known shares; here the shares are the user's, by default equal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_STEPS = 10_000
_CLOSE = 1e-12


def probabilities(scores: Array, lean: Array | None = None) -> Array:
    """Scores as probabilities of labels, (texts, labels), rows of sum 1.

    Args:
        scores: (texts, labels), in nats.
        lean: (labels,), in nats, taken off.
    """
    values = scores if lean is None else scores - lean
    values = np.exp(values - values.max(axis=1, keepdims=True))
    normalised: Array = values / values.sum(axis=1, keepdims=True)
    return normalised


def mean_lean(scores: Array) -> Array:
    """The logarithm of the mean probabilities over texts, (labels,): content-free ones, or the unlabelled ones."""
    lean: Array = np.log(probabilities(scores).mean(axis=0))
    return lean


def lean_to_prior(scores: Array, prior: Array) -> Array:
    """The lean, (labels,), with which the mean probabilities are a prior.

    Args:
        scores: (texts, labels), in nats.
        prior: (labels,), positive, of sum 1.
    """
    lean = np.zeros(scores.shape[1])
    for _ in range(_STEPS):
        change = np.log(probabilities(scores, lean).mean(axis=0)) - np.log(prior)
        lean = lean + change
        if np.abs(change).max() < _CLOSE:
            break
    shifted: Array = lean - np.logaddexp.reduce(lean)
    return shifted

"""Which labelled texts are kept: sure ones, and no more of a label than wanted. Ties go to the earlier text."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kept = NDArray[np.bool_]


def margins(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of the likeliest label's probability from the next one's, (texts,)."""
    ordered = np.sort(probabilities, axis=1)
    found: NDArray[np.float64] = ordered[:, -1] - ordered[:, -2]
    return found


def sure(probabilities: NDArray[np.float64], *, margin: float, keep: float) -> Kept:
    """Texts of at least a margin that are among the surest of their label, (texts,).

    Args:
        probabilities: (texts, labels).
        margin: least distance between the two likeliest labels.
        keep: share of each label's texts, rounded up.
    """
    distance, labels = margins(probabilities), probabilities.argmax(axis=1)
    among: Kept = np.zeros(len(labels), np.bool_)
    for label in range(probabilities.shape[1]):
        places = np.flatnonzero(labels == label)
        among[_surest(places, distance, math.ceil(keep * len(places)))] = True
    return among & (distance >= margin)


def capped(probabilities: NDArray[np.float64], kept: Kept, limit: int | Literal["smallest"] | None) -> Kept:
    """Of the kept texts the surest of each label, (texts,); ``smallest`` takes as many of each as the rarest has."""
    if limit is None:
        return kept
    distance, labels = margins(probabilities), probabilities.argmax(axis=1)
    groups = [np.flatnonzero(kept & (labels == label)) for label in range(probabilities.shape[1])]
    each = min(map(len, groups)) if limit == "smallest" else limit
    among: Kept = np.zeros(len(labels), np.bool_)
    for places in groups:
        among[_surest(places, distance, each)] = True
    return among


def _surest(places: NDArray[np.intp], distance: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    return places[np.argsort(-distance[places], kind="stable")[:count]]

"""How well labels are told: accuracy, macro-F1, confusion, calibration.

accuracy   share of right labels; standard error of a mean of independent texts
macro-F1   mean over labels of 2 TP / (2 TP + FP + FN); standard error by the bootstrap over texts
ECE        Σ_bins share · |accuracy - confidence|, ten bins of the likeliest label's probability (Guo et al., arXiv
           1706.04599); biased upwards on few texts, where every bin's accuracy is noise
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.benchmarks.statistics import Estimate

Labels = NDArray[np.intp]
BINS = 10
_RESAMPLES = 1000


class Bin(msgspec.Struct, frozen=True, kw_only=True):
    """Texts whose likeliest label has a probability between two bounds: how many, the mean, the share of right ones."""

    texts: int
    confidence: float
    accuracy: float


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """Labels against gold. ``confusion`` counts texts, [gold][told]; ``ece`` and ``bins`` where there are
    probabilities.
    """

    texts: int
    accuracy: float
    accuracy_se: float
    macro_f1: float
    macro_f1_se: float
    confusion: tuple[tuple[int, ...], ...]
    ece: float | None = None
    bins: tuple[Bin, ...] = ()


def score_labels(told: Labels, gold: Labels, labels: int) -> Scores:
    """Labels without probabilities against gold ones.

    Args:
        told, gold: places of labels, (texts,).
        labels: how many there are.
    """
    right, counts = mean_and_error(told == gold), confusion(told, gold, labels)
    return Scores(
        texts=len(gold),
        accuracy=right.mean,
        accuracy_se=right.se,
        macro_f1=macro_f1(counts),
        macro_f1_se=_macro_f1_error(told, gold, labels),
        confusion=tuple(tuple(int(count) for count in row) for row in counts),
    )


def score_probabilities(probabilities: NDArray[np.float64], gold: Labels) -> Scores:
    """Probabilities, (texts, labels), against gold labels, (texts,)."""
    found = score_labels(probabilities.argmax(axis=1), gold, probabilities.shape[1])
    bins = calibration_bins(probabilities, gold)
    return msgspec.structs.replace(found, ece=expected_calibration_error(bins), bins=bins)


def mean_and_error(values: NDArray[Any]) -> Estimate:
    """Mean of independent values, and its standard error; NaN for one value."""
    numbers = values.astype(np.float64)
    error = numbers.std(ddof=1) / math.sqrt(len(numbers)) if len(numbers) > 1 else math.nan
    return Estimate(float(numbers.mean()), float(error))


def confusion(told: Labels, gold: Labels, labels: int) -> NDArray[np.intp]:
    """Texts by gold label and told label, (labels, labels)."""
    return np.bincount(gold * labels + told, minlength=labels * labels).reshape(labels, labels)


def macro_f1(counts: NDArray[Any]) -> float:
    """Mean F1 of the labels that are there, in gold or told.

    Args:
        counts: texts, (gold, told).
    """
    right = np.diagonal(counts)
    there = counts.sum(axis=0) + counts.sum(axis=1)
    present = there > 0
    return float((2 * right[present] / there[present]).mean())


def _macro_f1_error(told: Labels, gold: Labels, labels: int) -> float:
    random = np.random.default_rng(0)
    found = []
    for _ in range(_RESAMPLES):
        picks = random.integers(0, len(gold), len(gold))
        found.append(macro_f1(confusion(told[picks], gold[picks], labels)))
    return float(np.std(found, ddof=1))


def calibration_bins(probabilities: NDArray[np.float64], gold: Labels) -> tuple[Bin, ...]:
    """Ten bins of equal width by the likeliest label's probability; empty ones left out."""
    sureness, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == gold
    which = np.minimum((sureness * BINS).astype(np.intp), BINS - 1)
    return tuple(
        Bin(texts=int(mine.sum()), confidence=float(sureness[mine].mean()), accuracy=float(right[mine].mean()))
        for mine in (which == place for place in range(BINS))
        if mine.any()
    )


def expected_calibration_error(bins: tuple[Bin, ...]) -> float:
    """Mean distance of accuracy from confidence, by texts."""
    total = sum(each.texts for each in bins)
    return sum(each.texts * abs(each.accuracy - each.confidence) for each in bins) / total

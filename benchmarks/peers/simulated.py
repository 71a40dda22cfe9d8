"""Divergence of a recipe's model from its student, simulated in torch: quick, paired, inputs not rounded.

For what is compared between variants of our own; figures against others come from the engines.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.compress.calibrate.config import Calibration
from edgepress.compress.calibrate.tokens import calibration_windows
from edgepress.compress.search.divergence import Divergence
from edgepress.compress.student.student import Student
from edgepress.pipeline.press import press
from edgepress.recipe import Recipe

Divergences = NDArray[np.float64]


def text_section(text: str, *, samples: int, length: int, seed: int = 0) -> Calibration:
    """A recipe's calibration on a file alone."""
    return Calibration(self_generated=False, files=(text,), samples=samples, length=length, seed=seed)


def judge(student: Student, text: str, *, tokens: int, window: int) -> Divergence:
    """What measures divergences on windows of a text."""
    length = min(window, student.spec.context)
    return Divergence(
        student, calibration_windows(student, text_section(text, samples=tokens // length, length=length))
    )


def divergences(student: Student, recipe: Recipe, divergence: Divergence) -> Divergences:
    """Of the recipe's checkpoint, in nats at each token."""
    with tempfile.TemporaryDirectory(prefix="edgepress-simulated-") as folder:
        press(student, recipe, Path(folder))
        checkpoint = Checkpoint(Path(folder))
        return divergence.per_token(lambda name, _original: checkpoint.read(name))


def mean_and_difference(found: Divergences, first: Divergences) -> str:
    """The mean, and the mean difference from another on the same tokens, each with its standard error."""
    return f"{_mean_and_error(found, '.5f')}   {_mean_and_error(found - first, '+.5f')}"


def _mean_and_error(values: Divergences, form: str) -> str:
    return f"{values.mean():{form}} ± {values.std() / np.sqrt(values.size):.5f}"

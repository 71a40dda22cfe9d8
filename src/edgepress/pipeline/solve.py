"""What the checkpoint stage works with, and one solve: formats in, a checkpoint out."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.activations import write_activations
from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.held_out import hold_out, thin_out
from edgepress.compress.calibrate.tokens import calibration_windows
from edgepress.compress.quantize.assign import assign_formats
from edgepress.compress.quantize.layers import quantize_model
from edgepress.compress.student.student import Student
from edgepress.pipeline.text_needed import rounding_needs_text
from edgepress.progress import say
from edgepress.recipe import Recipe

Windows = NDArray[np.int32]
Formats = dict[str, str]


@dataclass(frozen=True)
class Text:
    """Calibration windows: what the solver sees; what is trained on, the former included; what neither sees."""

    solver: Windows
    training: Windows
    held_out: Windows

    def training_beside(self, solver: Windows) -> Windows:
        """What is trained on where the solver sees only ``solver`` of its windows: the others judge the result."""
        kept = {window.tobytes() for window in self.solver} - {window.tobytes() for window in solver}
        return self.training[[window.tobytes() not in kept for window in self.training]]


@dataclass(frozen=True)
class Work:
    """A student, the model of the same function that is quantized in its place, the recipe and the text."""

    student: Student
    source: WeightSource
    recipe: Recipe
    text: Text | None

    def solve(self, formats: Formats, directory: Path, windows: Windows | None = None) -> None:
        """Write a checkpoint into ``directory``; ``formats`` are those that a search chose, ``windows`` the part of
        the solver's that it may see: all unless given.
        """
        if self.text is not None and windows is None:
            windows = self.text.solver
        if self.recipe.quantize.qad_tokens == 0:
            self._quantize(formats, directory, windows)
            return
        start = directory / "solved"
        start.mkdir()
        self._quantize(formats, start, windows)
        self._distill(start, directory, windows)
        shutil.rmtree(start)

    def smoothed(self, formats: Formats, windows: Windows | None = None) -> tuple[WeightSource, dict[str, float]]:
        """What is rounded, and the static scales of rounded activations where the recipe has them; as ``solve``."""
        step, source = self.recipe.quantize, self.source
        windows = self.text.solver if self.text is not None and windows is None else windows
        if windows is None or step.activations == "float":
            return source, {}
        from edgepress.compress.quantize.activations import prepare_activations

        return prepare_activations(source, step, assign_formats(source, step, formats), windows)

    def _quantize(self, formats: Formats, directory: Path, windows: Windows | None) -> None:
        step = self.recipe.quantize
        source, scales = self.smoothed(formats, windows)
        if scales:
            write_activations(directory, scales, step.activations)
        assignment = assign_formats(source, step, formats)
        looked_at = windows if rounding_needs_text(step) else None  # there may be some for pruning alone
        quantize_model(source, step, assignment, looked_at, directory, name=self.student.name)

    def _distill(self, start: Path, directory: Path, windows: Windows | None) -> None:
        from edgepress.compress.quantize.qad.distill import distill_through_grids

        assert self.text is not None and windows is not None
        record = distill_through_grids(
            self.source,
            Checkpoint(start),
            self.text.training_beside(windows),
            self.text.held_out,
            directory,
            tokens=self.recipe.quantize.qad_tokens,
            seed=self.recipe.calibration.seed,
        )
        say(f"distilled: divergence {record.start:.4f} before, {record.reached:.4f} after, on held-out text")


def calibration_text(student: Student, recipe: Recipe) -> Text:
    """The windows of a recipe. With training a part is held out, and the solver sees as many of the rest as it would
    without, or all.
    """
    calibration, step = recipe.calibration, recipe.quantize
    if step.qad_tokens == 0:
        windows = calibration_windows(student, calibration)
        return Text(windows, windows, windows)
    samples = max(calibration.samples, step.qad_samples)
    held_out, training = hold_out(calibration_windows(student, msgspec.structs.replace(calibration, samples=samples)))
    return Text(thin_out(training, calibration.samples), training, held_out)

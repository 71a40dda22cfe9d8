"""A training that stops behind its second saved state, as a killed one may."""

from __future__ import annotations

from typing import Any

from edgepress.compress.distill.trainer_state import Progress, TrainerState


class StoppedError(Exception):
    """It has stopped."""


class StopsAtTheSecondState(TrainerState):
    """Saves as ever, and stops behind step 4."""

    def save(self, progress: Progress, tensors: Any) -> None:
        """Save, and stop."""
        super().save(progress, tensors)
        if progress.steps >= 4:
            raise StoppedError

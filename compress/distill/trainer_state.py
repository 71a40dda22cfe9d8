"""The state of a training run on disk, so that a run that was killed goes on as if nothing had happened.

    step-00000150/   progress.json, state.safetensors: parameters and both moments of Adam after so many steps
    best-00000120/   best.safetensors: parameters of the best check so far

Parameters are those that are trained: with adapters, the adapters alone.

A state appears whole, by a rename, before the one that it replaces is removed: at every moment the newest of those that
are there is a good one. The order of the text and the learning rate follow from the step and the seed, and need no
saving.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Generic, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from typing_extensions import TypeVar

from edgepress.artifact.files import atomic_directory
from edgepress.errors import InputError

Tensors = dict[str, NDArray[np.float32]]
_PROGRESS, _STATE, _BEST = "progress.json", "state.safetensors", "best.safetensors"


class Check(msgspec.Struct, frozen=True):
    """What the judge said after some steps, in nats per held-out token; less is better."""

    step: int
    tokens: int
    held_out: float


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run has come: the training loss of each step, the checks, and how long the steps took."""

    losses: tuple[float, ...] = ()
    checks: tuple[Check, ...] = ()
    seconds: float = 0.0

    @property
    def steps(self) -> int:
        """Steps done."""
        return len(self.losses)

    @property
    def best(self) -> Check:
        """The check that the judge likes best; the first of equal ones."""
        return min(self.checks, key=lambda check: check.held_out)

    @property
    def stale(self) -> int:
        """Checks since the best one."""
        return len(self.checks) - 1 - self.checks.index(self.best)


class Checked(Protocol):
    """A check, which was taken after so many steps."""

    @property
    def step(self) -> int:
        """Steps done."""


class Course(Protocol):
    """How far a run has come, of any kind; a msgspec struct."""

    @property
    def steps(self) -> int:
        """Steps done."""

    @property
    def best(self) -> Checked:
        """The best check."""


Kind = TypeVar("Kind", bound=Course, default=Progress)


class TrainerState(Generic[Kind]):
    """The states of one run, below a directory of its own."""

    def __init__(self, root: Path, kind: type[Any] = Progress) -> None:
        """Take a directory.

        Args:
            root: need not exist.
            kind: of the progress that is saved.
        """
        self._root, self._kind = root, kind

    def save(self, progress: Kind, tensors: Tensors) -> None:
        """Save a state; those before it, and best ones that are so no longer, go."""
        final = self._step(progress.steps)
        with atomic_directory(final) as working:
            save_file(tensors, working / _STATE)
            (working / _PROGRESS).write_bytes(msgspec.json.encode(progress))
        self._remove_all_but((final, self._of_best(progress)))

    def load(self) -> tuple[Kind, Tensors] | None:
        """The newest state, or None where there is none.

        Raises:
            InputError: it is damaged.
        """
        states = sorted(self._root.glob("step-*"))
        if not states:
            return None
        try:
            progress: Kind = msgspec.json.decode((states[-1] / _PROGRESS).read_bytes(), type=self._kind)
        except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
            raise _damaged(states[-1], error) from error
        return progress, _load(states[-1] / _STATE)

    def save_best(self, progress: Kind, parameters: Tensors) -> None:
        """Save the parameters of the best check, which is the last one."""
        with atomic_directory(self._of_best(progress)) as working:
            save_file(parameters, working / _BEST)

    def load_best(self, progress: Kind) -> Tensors:
        """The parameters of the best check.

        Raises:
            InputError: they are damaged.
        """
        return _load(self._of_best(progress) / _BEST)

    def _step(self, steps: int) -> Path:
        return self._root / f"step-{steps:08d}"

    def _of_best(self, progress: Kind) -> Path:
        return self._root / f"best-{progress.best.step:08d}"

    def _remove_all_but(self, kept: Iterable[Path]) -> None:
        for path in set(self._root.iterdir()) - set(kept):
            shutil.rmtree(path)


def _load(path: Path) -> Tensors:
    try:
        tensors: dict[str, Any] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from error
    return tensors


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: damaged training state ({error}); remove {path.parent} to train from the start")

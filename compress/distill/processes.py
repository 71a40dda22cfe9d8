"""Processes that train one student together, each on its part of every step's windows: data parallel.

    ∂L/∂w = Σ_processes Σ_{learned tokens of its part} ∂ℓ/∂w / learned tokens of the whole step

Every process has the teacher and the student whole and does the same steps; gradients are summed, not averaged over
processes, since a part's loss is divided by the tokens of the step already. The first process alone judges, writes and
speaks. A launcher (``torchrun``, ``accelerate launch``) starts them and says in the environment how many there are;
accelerate brings them together, by NCCL on GPUs and by gloo on processors. Without a launcher there is one process, and
nothing here changes a bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed, nn

from edgepress.errors import EdgepressError, InputError

T = TypeVar("T")
# The first process may run the teacher over all text while the others wait; launchers end them where it fails.
_LONGEST_WAIT = timedelta(days=7)


class Processes:
    """This process among those that train together, and what they say to each other.

    Raises:
        EdgepressError: by any exchange, where another process has ended.
    """

    def __init__(self, index: int, count: int, device: torch.device) -> None:
        """Take a place.

        Args:
            index: of this process, from 0.
            count: of all.
            device: that this one computes on.
        """
        self.index, self.count, self.device = index, count, device

    @property
    def is_first(self) -> bool:
        """Whether this is the one that judges, writes and speaks."""
        return self.index == 0

    def part(self, windows: NDArray[np.intp]) -> NDArray[np.intp]:
        """This process's part of a step's windows, (samples,): all of them where it is alone."""
        return np.array_split(windows, self.count)[self.index] if self.count > 1 else windows

    def total(self, value: float) -> float:
        """The sum of all processes' numbers."""
        if self.count == 1:
            return value
        found = torch.tensor(value, dtype=torch.float64, device=self.device)
        with self._exchange():
            distributed.all_reduce(found)
        return float(found)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every process the sum of all processes' gradients."""
        if self.count == 1:
            return
        with self._exchange():
            for value in parameters:
                if value.grad is not None:
                    distributed.all_reduce(value.grad)

    def copy_from_first(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give every process the first one's values, in place."""
        if self.count == 1:
            return
        with self._exchange():
            for tensor in tensors:
                distributed.broadcast(tensor.detach(), src=0)

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes; the others wait for it and are told."""
        box: list[Any] = [make() if self.is_first else None]
        if self.count > 1:
            with self._exchange():
                distributed.broadcast_object_list(box, src=0, device=self.device)
        found: T = box[0]
        return found

    def after_first(self, make: Callable[[], T]) -> T:
        """What each process makes for itself, the others once the first has: they find what that left in the cache."""
        if self.is_first:
            made = make()
            self.from_first(lambda: True)
            return made
        self.from_first(lambda: True)
        return make()

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise EdgepressError(
                f"process {self.index} of {self.count}: another one has ended, or cannot be reached ({reason}); see "
                "its error, and run the same command to go on"
            ) from error


def alone() -> Processes:
    """One process, on the GPU where there is one."""
    return Processes(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


@contextmanager
def joined() -> Iterator[Processes]:
    """All processes that a launcher has started, while the block runs; one where there was none.

    Raises:
        InputError: there are more of them than GPUs here.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield alone()
        return
    gpus, place = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    if 0 < gpus <= place:
        raise InputError(f"process {place} has no GPU: there are {gpus} here; launch as many processes as that")
    from accelerate import PartialState

    state = PartialState(cpu=not gpus, timeout=_LONGEST_WAIT)
    yield Processes(state.process_index, state.num_processes, state.device)
    state.destroy_process_group()  # not after an error: the others would be waited for

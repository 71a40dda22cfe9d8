"""What the search for formats found, as the artifact keeps it."""

from __future__ import annotations

from pathlib import Path

import msgspec

ALLOCATION_FILE = "allocation.json"
COSTS_FILE = "costs.json"


class TensorChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A matrix, the format it got, its bytes in the file, and the predicted divergence in every format."""

    name: str
    format: str
    bytes: int
    losses: dict[str, float]


class TokenTime(msgspec.Struct, frozen=True, kw_only=True):
    """Predicted milliseconds per decoded token in the model's matrices, from costs measured on a device, which
    lie beside this as ``costs.json``.

    target_ms     the bound
    chosen_ms     of the chosen formats
    unbounded_ms  of the formats that would have been chosen without the bound
    """

    target_ms: float
    chosen_ms: float
    unbounded_ms: float


class Allocation(msgspec.Struct, frozen=True, kw_only=True):
    """The formats for a budget.

    budget_bytes   for the matrices below together; None where only the time is bounded
    used_bytes     what they take
    predicted_kld  sum of the predicted divergences, nats per token
    tried_kld      of the allocation as a whole, on held-out calibration windows, after GPTQ's sweep alone
    random_kld     the same for random allocations of the same bytes
    solved_kld     of the finished checkpoint, where a bound was given; the solver has not seen those windows
    time           where there is a bound on the time of a token
    """

    budget_bytes: int | None
    used_bytes: int
    predicted_kld: float
    tried_kld: float
    random_kld: tuple[float, ...]
    tensors: tuple[TensorChoice, ...]
    solved_kld: float | None = None
    time: TokenTime | None = None

    @property
    def formats(self) -> dict[str, str]:
        """Format by the matrix's name."""
        return {tensor.name: tensor.format for tensor in self.tensors}


def write_allocation(directory: Path, allocation: Allocation) -> None:
    """Write allocation.json into a checkpoint."""
    (directory / ALLOCATION_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(allocation)) + b"\n")


def read_allocation(directory: Path) -> Allocation | None:
    """What the search found for a checkpoint; None when its formats were given."""
    path = directory / ALLOCATION_FILE
    return msgspec.json.decode(path.read_bytes(), type=Allocation) if path.is_file() else None

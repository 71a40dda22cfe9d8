"""What the search for formats found, as the artifact keeps it, and what ``attribute`` says of the result."""

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


class FrontierPoint(msgspec.Struct, frozen=True, kw_only=True):
    """The least predicted divergence, in nats per token, of a file of that many bytes."""

    file_bytes: int
    predicted_kld: float


class Allocation(msgspec.Struct, frozen=True, kw_only=True):
    """The formats for a budget.

    budget_bytes   for the matrices below together; None where only the time is bounded
    used_bytes     what they take
    predicted_kld  sum of the predicted divergences, nats per token
    tried_kld      of the allocation as a whole, on held-out calibration windows, after GPTQ's sweep alone
    random_kld     the same for random allocations of the same bytes
    solved_kld     of the finished checkpoint, where a bound was given; the solver has not seen those windows
    max_kld        that bound
    time           where there is a bound on the time of a token
    other_bytes    of the file, that are not the matrices'
    frontier       predictions for other budgets, from the smallest file to the finest
    """

    budget_bytes: int | None
    used_bytes: int
    predicted_kld: float
    tried_kld: float
    random_kld: tuple[float, ...]
    tensors: tuple[TensorChoice, ...]
    solved_kld: float | None = None
    max_kld: float | None = None
    time: TokenTime | None = None
    other_bytes: int = 0
    frontier: tuple[FrontierPoint, ...] = ()

    @property
    def formats(self) -> dict[str, str]:
        """Format by the matrix's name."""
        return {tensor.name: tensor.format for tensor in self.tensors}


class TensorLoss(msgspec.Struct, frozen=True, kw_only=True):
    """A matrix, its format, and its part of the divergence in nats per token."""

    name: str
    format: str
    kld: float


class Attribution(msgspec.Struct, frozen=True, kw_only=True):
    """Where a checkpoint's divergence from its student comes from.

    tokens        that it was measured on, of the evaluation text
    roles         divergence with one role as it ships and all others original, nats per token
    together_kld  with all of them, norms and biases as they ship, on the same tokens
    tensors       of every role, they sum to the role's divergence
    """

    tokens: int
    roles: dict[str, float]
    together_kld: float
    tensors: tuple[TensorLoss, ...]


def write_allocation(directory: Path, allocation: Allocation) -> None:
    """Write allocation.json into a checkpoint."""
    (directory / ALLOCATION_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(allocation)) + b"\n")


def read_allocation(directory: Path) -> Allocation | None:
    """What the search found for a checkpoint; None when its formats were given."""
    path = directory / ALLOCATION_FILE
    return msgspec.json.decode(path.read_bytes(), type=Allocation) if path.is_file() else None

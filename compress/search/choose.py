"""Choose the format of every matrix for a budget, and say what that is worth.

1. ``errors``: e, the relative output error of every matrix in every format; ``fisher``: c, what such an error costs.
2. Each role (the queries of all layers, the down projections of all layers, …) is perturbed alone and the true
   divergence measured; κ = true / Σ c e corrects the role. An embedding is measured in every format by itself.
3. ``allocate`` minimises Σ κ c e exactly.
4. From there a local search: one matrix gives bytes up, others take them; a move is kept where the true divergence of
   the whole candidate fell.
5. Random allocations of the same bytes show what choosing is worth, and ``frontier`` what other budgets would bring.

All of that stays within a bound on the predicted time of a token as well, where one is given.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import EMBEDDING, HEAD
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.held_out import hold_out
from edgepress.compress.calibrate.skeleton import Floats
from edgepress.compress.search.allocate import allocate, allocate_for_loss, smallest_within
from edgepress.compress.search.divergence import Divergence
from edgepress.compress.search.errors import ErrorTable, measure_errors
from edgepress.compress.search.fisher import fisher_costs
from edgepress.compress.search.frontier import predicted_frontier
from edgepress.compress.search.limits import Limit, byte_limit
from edgepress.compress.search.local import improve, random_allocation
from edgepress.compress.search.records import Allocation, FrontierPoint, TensorChoice, TokenTime
from edgepress.progress import progress, say

Losses = dict[str, dict[str, float]]
Sizes = Mapping[str, Mapping[str, int]]
_RANDOM = 3
_MOVES = 12


class FormatSearch:
    """What every format costs a model, measured once; then formats for any budget. Close it, or use it in ``with``.

    ``rest`` are the calibration windows that are not held out for the divergences.
    """

    def __init__(
        self,
        source: WeightSource,
        windows: NDArray[np.int32],
        sizes: Sizes,
        seed: int,
        time: Limit | None = None,
        *,
        other_bytes: int = 0,
    ) -> None:
        """Measure.

        Args:
            source: the original model.
            windows: calibration tokens, int32, (samples, length); a part is held out for the divergences.
            sizes: matrix → format → bytes in the file, for the matrices that are free to choose.
            seed: of the sampled labels, the moves and the random allocations.
            time: a bound on the time of a token, for the same matrices and formats.
            other_bytes: of the file, that are not those matrices'.
        """
        held_out, self.rest = hold_out(windows)
        self._sizes, self._time, self._other_bytes = sizes, time, other_bytes
        self._rng = np.random.default_rng(seed)
        self._folder = tempfile.TemporaryDirectory(prefix="edgepress-search-")
        self._table = ErrorTable(Path(self._folder.name), _base(sizes))
        measure_errors(source, self.rest, {name: tuple(row) for name, row in sizes.items()}, self._table)
        costs = fisher_costs(source, held_out, seed)
        # Half of the windows: divergences of candidates on the same text are compared, which takes less of it.
        self._divergence = Divergence(source, held_out[::2])
        self._losses = predict_losses(self._table, costs, self._tried)

    @property
    def least(self) -> float:
        """The lowest divergence that any choice is predicted to reach, within the bound on the time if there is one."""
        finest = allocate(self._losses, self._sizes, math.inf, self._time)
        return sum(self._losses[name][format] for name, format in finest.items())

    def for_budget(self, budget_bytes: float) -> Allocation:
        """Formats of least divergence whose matrices take at most ``budget_bytes`` together; infinite for any.

        Raises:
            InputError: the smallest formats take more, or are too slow.
        """
        unbounded = allocate(self._losses, self._sizes, budget_bytes)
        chosen = allocate(self._losses, self._sizes, budget_bytes, self._time) if self._time else unbounded
        return self._refined(chosen, unbounded, budget_bytes)

    def for_divergence(self, bound: float) -> Allocation:
        """Formats of fewest bytes whose predicted divergence is at most ``bound``, in nats per token.

        Raises:
            InputError: the finest formats are predicted to lose more, or are too slow.
        """
        unbounded = allocate_for_loss(self._losses, self._sizes, bound)
        chosen = allocate_for_loss(self._losses, self._sizes, bound, self._time) if self._time else unbounded
        return self._refined(chosen, unbounded, sum(self._sizes[name][format] for name, format in chosen.items()))

    def solved(self, checkpoint: Checkpoint) -> float:
        """Divergence of a finished model on the held-out windows, with its inputs rounded where it rounds them."""
        return self._divergence.of(lambda name, _original: checkpoint.read(name), checkpoint.activations)

    def close(self) -> None:
        """Remove what the measurements left on disk."""
        self._folder.cleanup()

    def __enter__(self) -> FormatSearch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _refined(self, chosen: dict[str, str], unbounded: dict[str, str], budget_bytes: float) -> Allocation:
        losses, sizes, rng = self._losses, self._sizes, self._rng
        limits = [byte_limit(sizes, budget_bytes), *([self._time] if self._time else [])]
        smallest = smallest_within(sizes, self._time)
        with progress("trying allocations", _MOVES + _RANDOM + 1) as advance:
            chosen, reached = improve(chosen, losses, limits, self._tried, rng, _MOVES, advance)
            random = []
            for _ in range(_RANDOM):
                random.append(self._tried(random_allocation(limits, smallest, rng)))
                advance(1)
        allocation = _record(chosen, losses, sizes, budget_bytes, reached, random)
        return msgspec.structs.replace(
            allocation,
            time=self._token_time(chosen, unbounded),
            other_bytes=self._other_bytes,
            frontier=self._frontier,
        )

    def _token_time(self, chosen: dict[str, str], unbounded: dict[str, str]) -> TokenTime | None:
        time = self._time
        if time is None:
            return None
        return TokenTime(
            target_ms=time.bound + time.elsewhere,
            chosen_ms=time.total(chosen) + time.elsewhere,
            unbounded_ms=time.total(unbounded) + time.elsewhere,
        )

    @cached_property
    def _frontier(self) -> tuple[FrontierPoint, ...]:
        return predicted_frontier(self._losses, self._sizes, self._other_bytes, self._time)

    def _tried(self, formats: dict[str, str]) -> float:
        """Divergence when the matrices named take formats, as ``errors`` lets them stand in, and all others stay."""

        def change(name: str, values: Floats) -> Floats:
            return self._table.perturbed(name, values, formats[name]) if name in formats else values

        return self._divergence.of(change)


def predict_losses(
    table: ErrorTable, costs: Mapping[str, float], divergence: Callable[[dict[str, str]], float]
) -> Losses:
    """κ c e for every matrix and format, and the measured divergence for the embedding and the head.

    Args:
        table: e.
        costs: c.
        divergence: the true divergence when the matrices named take the formats given, and all others stay.
    """
    losses: Losses = {}
    roles: dict[str, list[str]] = {}
    for name in table.errors:
        if name in (EMBEDDING, HEAD):
            losses[name] = {format: divergence({name: format}) for format in table.errors[name]}
        else:
            roles.setdefault(name.split(".", 3)[3], []).append(name)
    for role, names in roles.items():
        bases = {name: table.base_of(name) for name in names}
        predicted = sum(costs[name] * table.errors[name][base] for name, base in bases.items())
        factor = divergence(bases) / predicted if predicted > 0 else 0.0
        say(f"{role}: divergence {factor * predicted:.4f} in {table.base}, {factor:.2f} times the estimate")
        for name in names:
            losses[name] = {format: factor * costs[name] * error for format, error in table.errors[name].items()}
    return {name: losses[name] for name in table.errors}


def _base(sizes: Sizes) -> str:
    """The smallest format that most matrices can take."""
    least = [min(row, key=lambda format: (row[format], format)) for row in sizes.values()]
    return max(sorted(set(least)), key=least.count)


def _record(
    chosen: dict[str, str], losses: Losses, sizes: Sizes, budget_bytes: float, reached: float, random: list[float]
) -> Allocation:
    tensors = [
        TensorChoice(name=name, format=format, bytes=sizes[name][format], losses=losses[name])
        for name, format in chosen.items()
    ]
    return Allocation(
        budget_bytes=int(budget_bytes) if math.isfinite(budget_bytes) else None,
        used_bytes=sum(tensor.bytes for tensor in tensors),
        predicted_kld=sum(losses[name][format] for name, format in chosen.items()),
        tried_kld=reached,
        random_kld=tuple(random),
        tensors=tuple(tensors),
    )

"""Choose the format of every matrix for a budget, and say what that is worth.

1. ``errors``: e, the relative output error of every matrix in every format; ``fisher``: c, what such an error costs.
2. Each role (the queries of all layers, the down projections of all layers, …) is perturbed alone and the true
   divergence measured; κ = true / Σ c e corrects the role. An embedding is measured in every format by itself.
3. ``allocate`` minimises Σ κ c e exactly.
4. From there a local search: one matrix gives bytes up, others take them; a move is kept where the true divergence of
   the whole candidate fell.
5. Random allocations of the same bytes show what choosing is worth.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.families import EMBEDDING, HEAD
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.skeleton import Floats
from edgepress.compress.search.allocate import allocate, allocate_for_loss
from edgepress.compress.search.divergence import Divergence
from edgepress.compress.search.errors import ErrorTable, measure_errors
from edgepress.compress.search.fisher import fisher_costs
from edgepress.compress.search.local import improve, random_allocation
from edgepress.compress.search.records import Allocation, TensorChoice
from edgepress.progress import progress, say

Losses = dict[str, dict[str, float]]
Sizes = Mapping[str, Mapping[str, int]]
_HELD_OUT_TOKENS = 4096
_RANDOM = 3
_MOVES = 12


def choose_formats(
    source: WeightSource,
    windows: NDArray[np.int32],
    sizes: Sizes,
    *,
    budget_bytes: float | None,
    max_kld: float | None,
    seed: int,
) -> Allocation:
    """Choose formats.

    Args:
        source: the original model.
        windows: calibration tokens, int32, (samples, length); a part is held out for the divergences.
        sizes: matrix → format → bytes in the file, for the matrices that are free to choose.
        budget_bytes: for those together; None when ``max_kld`` bounds the divergence instead.
        max_kld: bound on the predicted divergence.
        seed: of the sampled labels, the moves and the random allocations.

    Raises:
        InputError: the budget or the bound cannot be met.
    """
    held_out, rest = _split(windows)
    rng = np.random.default_rng(seed)
    formats = {name: tuple(row) for name, row in sizes.items()}
    base = _base(sizes)
    with tempfile.TemporaryDirectory(prefix="edgepress-search-") as folder:
        table = ErrorTable(Path(folder), base)
        measure_errors(source, rest, formats, table)
        costs = fisher_costs(source, held_out, seed)
        trial = _Trial(Divergence(source, held_out), table)
        losses = predict_losses(table, costs, trial.divergence)
        if budget_bytes is None:
            assert max_kld is not None
            chosen = allocate_for_loss(losses, sizes, max_kld)
            budget_bytes = float(sum(sizes[name][format] for name, format in chosen.items()))
        else:
            chosen = allocate(losses, sizes, budget_bytes)
        with progress("trying allocations", _MOVES + _RANDOM + 1) as advance:
            chosen, reached = improve(chosen, losses, sizes, budget_bytes, trial.divergence, rng, _MOVES, advance)
            others = [random_allocation(sizes, budget_bytes, rng) for _ in range(_RANDOM)]
            random = [_counted(trial.divergence, other, advance) for other in others]
    return _record(chosen, losses, sizes, budget_bytes, reached, random)


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


class _Trial:
    """The true divergence of an allocation, each format standing in as ``errors`` says."""

    def __init__(self, divergence: Divergence, table: ErrorTable) -> None:
        self._divergence, self._table = divergence, table

    def divergence(self, formats: dict[str, str]) -> float:
        def change(name: str, values: Floats) -> Floats:
            return self._table.perturbed(name, values, formats[name]) if name in formats else values

        return self._divergence.of(change)


def _counted(
    divergence: Callable[[dict[str, str]], float], formats: dict[str, str], advance: Callable[[int], None]
) -> float:
    found = divergence(formats)
    advance(1)
    return found


def _split(windows: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Held-out windows, spread over the calibration text, and the rest; a quarter, and no more than is needed."""
    count = max(1, min(len(windows) // 4, _HELD_OUT_TOKENS // windows.shape[1]))
    if len(windows) < 2:
        return windows, windows
    chosen = np.unique(np.linspace(0, len(windows) - 1, count).astype(np.intp))
    return windows[chosen], np.delete(windows, chosen, axis=0)


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
        budget_bytes=int(budget_bytes),
        used_bytes=sum(tensor.bytes for tensor in tensors),
        predicted_kld=sum(losses[name][format] for name, format in chosen.items()),
        tried_kld=reached,
        random_kld=tuple(random),
        tensors=tuple(tensors),
    )

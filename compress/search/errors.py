"""What each format does to the output of each matrix: the relative squared error after GPTQ's sweep.

    e_Tf = tr (Ŵ - W) H (Ŵ - W)ᵀ / tr W H Wᵀ           H: second moments of the original model's inputs

For every format it is measured on a sample of rows, which are alike enough. For one format, the *base*, all rows are
solved and Δ = Ŵ - W is kept on disk: W + √(e_Tf / e_T,base) Δ stands for format f when candidates are tried, with an
error of f's size in directions that the solver leaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.artifact.families import EMBEDDING, HEAD, layer_name, linear_groups_of
from edgepress.artifact.formats import get_format
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.moments import InputStatistics, Moments
from edgepress.compress.calibrate.skeleton import Skeleton
from edgepress.compress.quantize.gptaq.embedding import with_look_up
from edgepress.compress.quantize.gptaq.solve import InputSolver
from edgepress.compress.quantize.grid import to_fp16
from edgepress.compress.quantize.solved import relative_error
from edgepress.progress import progress

Floats = NDArray[np.float32]
_SAMPLED_ROWS = 96


class ErrorTable:
    """e of every matrix and format, and the base format's Δ, kept in ``directory``.

    ``errors[name][format]``; formats that do not fit a matrix are left out.
    """

    def __init__(self, directory: Path, base: str) -> None:
        self.errors: dict[str, dict[str, float]] = {}
        self.base = base
        self._directory = directory

    def measure(self, name: str, weight: Floats, statistics: InputStatistics, formats: tuple[str, ...]) -> None:
        """Fill a matrix's row of the table."""
        solver, moments = _Rounding(statistics), statistics.hessian.float().numpy()
        rows = np.linspace(0, len(weight) - 1, min(_SAMPLED_ROWS, len(weight))).astype(np.intp)
        sample = np.ascontiguousarray(weight[rows])
        fitting = [format for format in formats if get_format(format).fits(weight.shape[1])]
        with _one_thread():
            self.errors[name] = {
                format: relative_error(sample, solver.values(sample, format), moments) for format in fitting
            }
        difference = solver.values(weight, self.base_of(name)) - weight
        np.save(self._file(name), difference.astype(np.float16))

    def base_of(self, name: str) -> str:
        """The format that Δ was measured with: the coarsest that fits, where the base does not."""
        found = self.errors[name]
        return self.base if self.base in found else max(found, key=lambda format: found[format])

    def amplitude(self, name: str, format: str) -> float:
        """√(e_f / e_base)."""
        found = self.errors[name]
        base = found[self.base_of(name)]
        return float(np.sqrt(found[format] / base)) if base > 0 else 0.0

    def perturbed(self, name: str, weight: Floats, format: str) -> Floats:
        """What stands for a format when candidates are tried."""
        difference: NDArray[np.float16] = np.load(self._file(name), allow_pickle=False)
        changed: Floats = weight + np.float32(self.amplitude(name, format)) * difference
        return changed

    def _file(self, name: str) -> Path:
        return self._directory / f"{name}.npy"


class _Rounding:
    """Weights as a format holds them, after the sweep where it has codes."""

    def __init__(self, statistics: InputStatistics) -> None:
        self._solver = InputSolver(statistics)

    def values(self, weight: Floats, format: str) -> Floats:
        """Float32, like ``weight``."""
        if get_format(format).kind == "float":
            return weight if format == "f32" else to_fp16(weight, "value").astype(np.float32)
        return self._solver.trial(weight, format).dequantize()


@contextmanager
def _one_thread() -> Iterator[None]:
    """While it is entered, torch uses one thread: a second one waits longer for products of a few rows than they take,
    and a hundred times as long where the machine has other work.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def measure_errors(
    source: WeightSource, windows: NDArray[np.int32], formats: dict[str, tuple[str, ...]], table: ErrorTable
) -> None:
    """Fill the table for the matrices named in ``formats``, whose values are the formats to try."""
    with progress("what each format loses", len(formats)) as advance:
        for name, weight, statistics in _matrices(source, windows):
            if name in formats:
                table.measure(name, weight, statistics, formats[name])
                advance(1)


@torch.inference_mode()
def _matrices(source: WeightSource, windows: NDArray[np.int32]) -> Iterator[tuple[str, Floats, InputStatistics]]:
    """Every matrix with the statistics of its inputs in the original model."""
    skeleton = Skeleton(source, windows)
    hidden = skeleton.embed()
    for index in range(len(skeleton.layers)):
        tensors = skeleton.read_layer(index)
        layer = skeleton.fill(index, tensors)
        moments, handles = {}, []
        for group in linear_groups_of(source.spec.layers[index]):
            moments[group] = Moments()
            handles.append(layer.get_submodule(group[0]).register_forward_pre_hook(_adder(moments[group])))
        for batch in skeleton.batches:
            hidden[batch] = skeleton.run(layer, index, hidden[batch])
        for handle in handles:
            handle.remove()
        for group, sums in moments.items():
            statistics = sums.finish()
            for part in group:
                name = layer_name(index, part)
                yield name, tensors[name], statistics
        skeleton.release(index)
    norm, last = skeleton.final_norm(), Moments()
    for batch in skeleton.batches:
        last.add(norm(hidden[batch]), None)
    yield from _outside(source, last.finish())


def _outside(source: WeightSource, head: InputStatistics) -> Iterator[tuple[str, Floats, InputStatistics]]:
    if HEAD in source.names:
        yield HEAD, source.read(HEAD), head
        yield EMBEDDING, source.read(EMBEDDING), with_look_up(None, source.spec.hidden)
    else:
        yield EMBEDDING, source.read(EMBEDDING), with_look_up(head, source.spec.hidden)


def _adder(moments: Moments):  # type: ignore[no-untyped-def]
    def hook(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        moments.add(inputs[0], None)

    return hook

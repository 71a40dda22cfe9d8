"""What a matrix of each shape costs in each format, in the engine itself.

One sample of the decode multiplies one token's activations with several copies of the weights, one after another, and
is divided by their number. A model goes through all its weights for each token, so a matrix that is needed again finds
as much in the cache as the rest of the model has left there: the copies take the bytes of the whole model in that
format, or twice the last-level cache, whichever is less.

A prompt is one product with ``PROMPT`` rows of activations; the weights are read once for all of them. Repetitions go
round all shapes and formats, so that a drift of the clock falls on all alike; each starts with an untimed run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from math import ceil
from typing import Protocol

import psutil

from edgepress.artifact.formats import get_format
from edgepress.benchmarks.cautions import ENOUGH_REPETITIONS, machine_cautions
from edgepress.benchmarks.cost_records import COSTS_VERSION, CostsRecord, MatrixShape, ProductCost
from edgepress.errors import InputError
from edgepress.progress import progress
from edgepress.runtime.cores import last_level_cache_bytes, physical_cores
from edgepress.runtime.environment import Environment, read_machine, read_state

PROMPT = 512
_WITHOUT_CACHE_SIZE = 256 << 20


class Product(Protocol):
    """Products of one shape and format, ready to run; ``run`` computes all copies once."""

    kernels: str

    @property
    def engine_version(self) -> str:
        """Versions of the engine."""

    def run(self) -> None:
        """Compute them."""


class Maker(Protocol):
    """Makes an engine's products."""

    def __call__(
        self, format: str, shape: tuple[int, int], *, tokens: int, copies: int, threads: int
    ) -> AbstractContextManager[Product]:
        """Arguments as those of :class:`~edgepress.runtime.ggml_product.GgmlProduct`."""


def measure_costs(
    engine: str,
    make: Maker,
    model: str,
    shapes: Sequence[MatrixShape],
    formats: Sequence[str],
    fits: Callable[[str, int], bool],
    *,
    threads: int | None,
    repetitions: int,
) -> CostsRecord:
    """Measure every shape in every format that fits it.

    Args:
        engine: the engine's name.
        make: makes its products.
        model: name of the model whose shapes these are.
        shapes: what to measure.
        formats: names of formats.
        fits: whether the engine holds rows of that many values in a format.
        threads: CPU threads; None takes the physical cores.
        repetitions: samples of each.

    Raises:
        InputError: a format that fits no shape, or a matrix that memory has no room for.
    """
    pairs = [(shape, format) for shape in shapes for format in formats if fits(format, shape.columns)]
    _check(shapes, formats, pairs)
    before, cache = read_state(), last_level_cache_bytes()
    used = threads or physical_cores()
    gathered = [_Samples(shape, format, _copies(shape, format, shapes, cache)) for shape, format in pairs]
    with progress(f"products in {engine}", len(pairs) * repetitions) as advance:
        for _ in range(repetitions):
            for samples in gathered:
                samples.take(make, used)
                advance(1)
    environment = Environment(machine=read_machine(), before=before, after=read_state())
    return CostsRecord(
        version=COSTS_VERSION,
        engine=engine,
        engine_version=gathered[0].engine_version,
        model=model,
        threads=used,
        prompt=PROMPT,
        cache_bytes=cache,
        shapes=tuple(shapes),
        costs=tuple(samples.cost() for samples in gathered),
        environment=environment,
        warnings=tuple(_cautions(environment, repetitions)),
    )


class _Samples:
    """The samples of one shape in one format."""

    def __init__(self, shape: MatrixShape, format: str, copies: int) -> None:
        self._shape, self._format, self._copies = shape, format, copies
        self._decode: list[float] = []
        self._prefill: list[float] = []
        self.kernels = self.engine_version = ""

    def take(self, make: Maker, threads: int) -> None:
        """One more of each."""
        size = (self._shape.rows, self._shape.columns)
        with make(self._format, size, tokens=1, copies=self._copies, threads=threads) as product:
            self._decode.append(_timed_ms(product.run) / self._copies)
            self.kernels, self.engine_version = product.kernels, product.engine_version
        if self._shape.per_token:
            with make(self._format, size, tokens=PROMPT, copies=1, threads=threads) as product:
                self._prefill.append(_timed_ms(product.run) / PROMPT)

    def cost(self) -> ProductCost:
        """What they say."""
        return ProductCost(
            format=self._format,
            rows=self._shape.rows,
            columns=self._shape.columns,
            bytes=_bytes(self._shape, self._format),
            copies=self._copies,
            kernels=self.kernels,
            decode_ms=statistics.median(self._decode),
            prefill_ms=statistics.median(self._prefill) if self._prefill else None,
            samples_decode_ms=tuple(self._decode),
            samples_prefill_ms=tuple(self._prefill),
        )


def _timed_ms(run: Callable[[], None]) -> float:
    """Milliseconds of the second run; the first pays for page faults."""
    run()
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) / 1e6


def _copies(shape: MatrixShape, format: str, shapes: Sequence[MatrixShape], cache: int | None) -> int:
    fitting = [other for other in shapes if get_format(format).fits(other.columns)]
    model = sum(other.count * _bytes(other, format) for other in fitting)
    wanted = min(model, 2 * cache if cache else _WITHOUT_CACHE_SIZE)
    return ceil(wanted / _bytes(shape, format))


def _bytes(shape: MatrixShape, format: str) -> int:
    return get_format(format).tensor_bytes(shape.rows * shape.columns, shape.rows)


def _check(shapes: Sequence[MatrixShape], formats: Sequence[str], pairs: list[tuple[MatrixShape, str]]) -> None:
    for format in formats:
        if all(format != found for _, found in pairs):
            widths = ", ".join(str(width) for width in sorted({shape.columns for shape in shapes}))
            raise InputError(
                f"{format} fits no matrix: rows have {widths} values and its blocks {get_format(format).block}"
            )
    free = psutil.virtual_memory().available
    for shape, format in pairs:
        needed = 2 * _bytes(shape, format) + 4 * PROMPT * shape.per_token * (shape.rows + shape.columns)
        if needed > free:
            raise InputError(
                f"{shape.rows} × {shape.columns} in {format} takes about {needed >> 20} MiB to measure and "
                f"{free >> 20} MiB are free; name smaller formats with --formats"
            )


def _cautions(environment: Environment, repetitions: int) -> list[str]:
    found = machine_cautions(environment)
    if repetitions < ENOUGH_REPETITIONS:
        found.append(f"{repetitions} repetitions: the median is a guess; take at least {ENOUGH_REPETITIONS}")
    return found

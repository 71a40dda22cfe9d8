"""Walking a matrix in tiles of super-blocks, for the K-type solvers.

A tile holds the values of some super-blocks *value-major*: shape (sub_block, lanes), one lane per sub-block, so that
what is computed per sub-block is a row operation over contiguous lanes, and a sum over a sub-block adds whole rows in
order. That order is ggml's, which lets float32 results agree with it to the bit. The lanes of one super-block are
adjacent: ``lane.reshape(supers, lanes per super-block)``. A tile is small enough for the second-level cache, so
temporary memory is a few MB whatever the matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.formats import Format
from edgepress.artifact.quantized import QuantizedTensor
from edgepress.compress.quantize.grid import FP16_MAX, Floats
from edgepress.errors import InputError

FP16_TINY = np.float32(2.0**-24)  # the smallest positive fp16
ZERO = np.float32(1e-15)  # ggml takes smaller extremes and scales for zero

_TILE_VALUES = 1 << 16

# Relative to the mean: a feature that calibration never excited still deserves sensible codes.
_IMPORTANCE_FLOOR = 1e-6


class Fit(NamedTuple):
    """The solution of one tile. Integers are held as float32; super scales are fp16 numbers, held as float32."""

    codes: Floats  # (sub_block, lanes), index into the format's levels
    scales: Floats  # (lanes,)
    super_scales: Floats  # (supers,)
    mins: Floats | None = None
    super_mins: Floats | None = None


Solve = Callable[[Floats, slice], Fit]


def solve_in_tiles(weight: Floats, spec: Format, solve: Solve) -> QuantizedTensor:
    """Quantize a matrix tile by tile.

    Args:
        weight: float32, (rows, columns), columns a multiple of 256.
        spec: a K type.
        solve: takes a tile's values (sub_block, lanes) and the slice of super-blocks that it covers, counted over the
            whole matrix row by row.

    Raises:
        InputError: a value that is not finite.
    """
    rows, columns = weight.shape
    supers, lanes = rows * columns // spec.block, spec.block // spec.sub_block
    parts = {
        "codes": np.empty((supers, spec.block), np.uint8),
        "scales": np.empty((supers, lanes), np.uint8 if spec.has_min else np.int8),
        "super_scales": np.empty((supers, 1), np.float16),
    }
    if spec.has_min:
        parts |= {"mins": np.empty((supers, lanes), np.uint8), "super_mins": np.empty((supers, 1), np.float16)}
    for part, values in _tiles(weight, spec):
        fit = solve(values, part)
        for name, whole in parts.items():
            found = fit.codes.T if name == "codes" else getattr(fit, name)
            whole[part] = found.reshape(-1, whole.shape[1])
    return QuantizedTensor(format=spec.name, **{name: whole.reshape(rows, -1) for name, whole in parts.items()})


def _tiles(weight: Floats, spec: Format) -> Iterator[tuple[slice, Floats]]:
    supers = weight.reshape(-1, spec.block)
    step = _TILE_VALUES // spec.block
    for start in range(0, len(supers), step):
        part = slice(start, min(start + step, len(supers)))
        values = _value_major(supers[part], spec)
        if not np.isfinite(values).all():
            raise InputError(f"the weights contain NaN or infinity, which {spec.name} cannot hold")
        yield part, values


def _value_major(supers: NDArray[np.float32], spec: Format) -> Floats:
    # A copy even where the transpose is already contiguous: solvers may not write into the caller's weights.
    return np.array(supers.reshape(-1, spec.sub_block).T, dtype=np.float32, order="C")


def tile_importance(importance: Floats | None, columns: int, spec: Format) -> Callable[[slice], Floats]:
    """Importance of a tile's values, by the slice of super-blocks that it covers.

    Scaled to mean 1, so that sums stay in float32's range, and floored.

    Args:
        importance: float32, (columns,), none negative; None weighs all alike.
        columns: of the matrix.
        spec: a K type.

    Raises:
        InputError: a value that is not finite.
    """
    scaled = np.ones(columns) if importance is None else importance.astype(np.float64)
    mean = scaled.mean()
    if not np.isfinite(mean):
        raise InputError("the importance of an input feature is NaN or infinite; calibrate again")
    scaled = np.maximum(scaled / mean, _IMPORTANCE_FLOOR) if mean > 0 else np.ones(columns)
    per_super = scaled.astype(np.float32).reshape(-1, spec.block)
    return lambda part: _value_major(per_super[np.arange(part.start, part.stop) % len(per_super)], spec)


def extreme_of_lanes(x: Floats) -> Floats:
    """The first value of largest magnitude of each lane, with its sign; x is (sub_block, lanes)."""
    low, high = x.min(axis=0), x.max(axis=0)
    extreme: Floats = np.where(high > -low, high, low)
    tied = np.flatnonzero(high == -low)
    place = np.abs(x[:, tied]).argmax(axis=0)
    extreme[tied] = x[place, tied]
    return extreme


def nearest_fp16(value: Floats) -> Floats:
    """The fp16 numbers nearest to non-zero values, as float32; neither zero nor infinity, and of the same sign."""
    magnitude = np.clip(np.abs(value), FP16_TINY, FP16_MAX).astype(np.float16)
    return np.copysign(magnitude.astype(np.float32), value)


def copy_where(better: NDArray[np.bool_], new: tuple[Floats, ...], old: tuple[Floats, ...]) -> None:
    """Overwrite ``old`` with ``new`` in place where ``better``."""
    for source, target in zip(new, old, strict=True):
        np.copyto(target, source, where=better)

"""The arithmetic that all solvers for blocks with one scale share: cutting into blocks, nearest codes, fp16 scales.

A block is a whole row in formats with one scale per row. A *grid* is the set of levels of a format. ``encode`` maps
scaled values x/d to the code of the nearest level.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.formats import Format, get_format
from edgepress.artifact.quantized import QuantizedTensor
from edgepress.errors import InputError

Floats = NDArray[np.float32]

FP16_MAX = 65504.0
_FP16_TINY = np.float32(2.0**-24)


def to_blocks(weight: Floats, spec: Format) -> Floats:
    """(rows, columns) → (rows · columns / block, block), a view where the memory allows."""
    return np.ascontiguousarray(weight, dtype=np.float32).reshape(-1, spec.scale_width(weight.shape[1]))


def encode(scaled: Floats, spec: Format) -> NDArray[np.uint8]:
    """Codes of the levels nearest to ``scaled`` = x / d, same shape. Ties go to the even level on uniform grids,
    to the upper one on others.
    """
    levels = spec.levels
    if is_uniform(spec):
        places = np.rint(scaled)
        places -= levels[0]
        np.clip(places, 0, len(levels) - 1, out=places)
        return places.astype(np.uint8)
    table, origin = _midpoint_table(spec.name)
    index = np.floor(scaled * np.float32(2 / spec.gap)) - origin
    np.clip(index, 0, len(table) - 1, out=index)
    codes: NDArray[np.uint8] = table[index.astype(np.int32)]
    return codes


def nearest_levels(scaled: Floats, spec: Format, out: Floats) -> Floats:
    """The levels nearest to ``scaled``, written into ``out``; on non-uniform grids it may hold no NaN."""
    if is_uniform(spec):
        np.rint(scaled, out=out)
        return np.clip(out, spec.levels[0], spec.levels[-1], out=out)
    return np.take(spec.level_array(), encode(scaled, spec), out=out)


def is_uniform(spec: Format) -> bool:
    """Whether neighbouring levels are one apart."""
    return spec.levels[-1] - spec.levels[0] == len(spec.levels) - 1


@lru_cache
def _midpoint_table(name: str) -> tuple[NDArray[np.uint8], int]:
    """Nearest code for each cell of half the least gap between levels, of which all midpoints are multiples."""
    levels, half = get_format(name).level_array(), get_format(name).gap / 2
    midpoints = (levels[:-1] + levels[1:]) / 2
    origin = int(levels[0] / half) - 1
    cells = (np.arange(origin, int(levels[-1] / half) + 2) + 0.5) * half
    return np.searchsorted(midpoints, cells).astype(np.uint8), origin


def to_fp16(value: Floats, what: str) -> NDArray[np.float16]:
    """Round scales or minima to fp16, as the file stores them.

    Raises:
        InputError: a value beyond fp16's range, which no block format can store.
    """
    largest = float(np.max(np.abs(value), initial=0.0))
    if np.isnan(largest):
        raise InputError(f"a block's {what} overflows float32; no block format can hold these weights")
    if not largest <= FP16_MAX:
        raise InputError(
            f"a block's {what} of {largest:.3g} exceeds fp16's {FP16_MAX:.0f}; no block format can hold these weights"
        )
    return value.astype(np.float16)


def shipped_scale(scale: Floats, spec: Format) -> Floats:
    """The fp16 values that a file holds for scales, as float32; above 0 where the format wants them so."""
    rounded = to_fp16(scale, "scale").astype(np.float32)
    return np.maximum(rounded, _FP16_TINY) if spec.positive else rounded


def assemble(
    spec: Format, shape: tuple[int, int], codes: NDArray[np.uint8], scale: Floats, minimum: Floats | None
) -> QuantizedTensor:
    """Codes (blocks, block), scales and minima (blocks,) → a QuantizedTensor of ``shape``."""
    rows, columns = shape
    per_block = (rows, columns // spec.scale_width(columns))
    return QuantizedTensor(
        format=spec.name,
        codes=codes.reshape(rows, columns),
        scales=to_fp16(scale, "scale").reshape(per_block),
        mins=None if minimum is None else to_fp16(minimum, "minimum").reshape(per_block),
    )


def signed_extreme(blocks: Floats) -> Floats:
    """The value of largest magnitude of each block, with its sign, (blocks,)."""
    place = np.abs(blocks).argmax(axis=1)
    extreme: Floats = blocks[np.arange(len(blocks)), place]
    return extreme


def reciprocal(value: Floats) -> Floats:
    """1 / value, and 0 where value is 0."""
    return np.divide(np.float32(1), value, out=np.zeros_like(value), where=value != 0)

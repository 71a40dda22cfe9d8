"""The number formats a tensor can ship in, as data.

A block format stores each row in blocks of ``block`` values. A value is

    w = d · level[code] + m                     blocks of 32, 64 or 128: d, m are fp16
    w = (D · s) · level[code] - (M · t)         K types, iq4_xs: fp16 D, M per 256 values, integer s, t per sub-block
    w = d · level[code]                         channel: one d per row, an fp16 value that a file keeps as float32

``level`` maps the unsigned code to the integer it stands for, in fp8 to the float; formats without a minimum have no m
or t.
Byte counts of the ggml formats are those of its block structs. TensorRT and QuantizeLinear want d > 0 (``positive``).
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.float8 import E4M3_LEVELS, SMALLEST_GAP
from edgepress.errors import InputError

# Non-uniform levels of iq4_nl and iq4_xs, from ggml's kvalues_iq4nl.
IQ4_NL_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """One storage format. ``block`` divides the row length; ``block_bytes`` is what a block occupies in a file, and
    ``row_bytes`` what a row takes on top of its blocks. ``gap`` is the least distance between levels. ``sub_block``
    values share a scale; a whole row where it is 0. ``scale_bits`` is the width of a sub-block's integer scale, and of
    its minimum, under super scales; 0 without those.
    """

    name: str
    kind: Literal["float", "block", "super", "channel"]
    bits: int
    block: int
    block_bytes: int
    levels: tuple[float, ...] = ()
    gap: float = 1.0
    has_min: bool = False
    sub_block: int = 0
    scale_bits: int = 0
    row_bytes: int = 0
    positive: bool = False

    @property
    def has_zero(self) -> bool:
        """Whether a zero stays one, whatever its block: a level is zero and nothing is added to it."""
        return self.kind == "float" or (0 in self.levels and not self.has_min)

    def fits(self, width: int) -> bool:
        """Whether rows of ``width`` values divide into whole blocks."""
        return width % self.block == 0

    def tensor_bytes(self, values: int, rows: int = 0) -> int:
        """Bytes of ``values`` stored values (whole blocks) in ``rows`` rows; only channel formats count those."""
        return values // self.block * self.block_bytes + rows * self.row_bytes

    def scale_width(self, columns: int) -> int:
        """How many values of a row of ``columns`` share a scale."""
        return self.sub_block or columns

    @property
    def scale_range(self) -> tuple[int, int]:
        """The least and the greatest integer scale of a sub-block; unsigned in formats with a minimum."""
        values = 2**self.scale_bits
        return (0, values - 1) if self.has_min else (-(values // 2), values // 2 - 1)

    @property
    def bits_per_value(self) -> float:
        """Stored bits per value, the scales of blocks included, those of whole rows not."""
        return 8 * self.block_bytes / self.block

    def level_array(self) -> NDArray[np.float32]:
        """The levels as float32, in the order of their codes."""
        return np.asarray(self.levels, dtype=np.float32)


def _signed(bits: int) -> tuple[int, ...]:
    return tuple(range(-(2 ** (bits - 1)), 2 ** (bits - 1)))


def _unsigned(bits: int) -> tuple[int, ...]:
    return tuple(range(2**bits))


def _block(name: str, bits: int, block_bytes: int, levels: tuple[int, ...], *, has_min: bool = False) -> Format:
    return Format(
        name=name,
        kind="block",
        bits=bits,
        block=32,
        sub_block=32,
        block_bytes=block_bytes,
        levels=levels,
        has_min=has_min,
    )


def _symmetric_int4(name: str, block: int) -> Format:
    return Format(
        name=name,
        kind="block",
        bits=4,
        block=block,
        sub_block=block,
        block_bytes=block // 2 + 2,
        levels=_signed(4),
        positive=True,
    )


def _super(
    name: str, bits: int, block_bytes: int, sub: int, scale_bits: int, levels: tuple[int, ...], *, has_min: bool = False
) -> Format:
    return Format(
        name=name,
        kind="super",
        bits=bits,
        block=256,
        sub_block=sub,
        scale_bits=scale_bits,
        block_bytes=block_bytes,
        levels=levels,
        has_min=has_min,
    )


_ALL = (
    Format(name="f32", kind="float", bits=32, block=1, block_bytes=4),
    Format(name="f16", kind="float", bits=16, block=1, block_bytes=2),
    _block("q8_0", 8, 34, _signed(8)),
    _block("q5_1", 5, 24, _unsigned(5), has_min=True),
    _block("q5_0", 5, 22, _signed(5)),
    _block("q4_1", 4, 20, _unsigned(4), has_min=True),
    _block("q4_0", 4, 18, _signed(4)),
    _block("iq4_nl", 4, 18, IQ4_NL_LEVELS),
    _super("q6_K", 6, 210, 16, 8, _signed(6)),
    _super("q5_K", 5, 176, 32, 6, _unsigned(5), has_min=True),
    _super("q4_K", 4, 144, 32, 6, _unsigned(4), has_min=True),
    _super("iq4_xs", 4, 136, 32, 6, IQ4_NL_LEVELS),
    _super("q3_K", 3, 110, 16, 6, _signed(3)),
    Format(name="int8", kind="channel", bits=8, block=1, block_bytes=1, row_bytes=4, levels=_signed(8), positive=True),
    Format(
        name="fp8",
        kind="channel",
        bits=8,
        block=1,
        block_bytes=1,
        row_bytes=4,
        levels=E4M3_LEVELS,
        gap=SMALLEST_GAP,
        positive=True,
    ),
    _symmetric_int4("trt_int4_64", 64),
    _symmetric_int4("trt_int4_128", 128),
)

FORMATS: dict[str, Format] = {entry.name: entry for entry in _ALL}


def get_format(name: str) -> Format:
    """Look a format up by name.

    Raises:
        InputError: no such format; lists those that exist.
    """
    try:
        return FORMATS[name]
    except KeyError:
        raise InputError(f"unknown format {name!r}; known formats: {', '.join(FORMATS)}") from None


def formats_for(width: int) -> list[str]:
    """Names of the formats whose blocks divide rows of ``width`` values."""
    return [entry.name for entry in _ALL if entry.fits(width)]

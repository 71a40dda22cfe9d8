"""The number formats a tensor can ship in, as data.

A block format stores each row in blocks of ``block`` values. A value is

    w = d · level[code] + m                     32-wide blocks: d, m are fp16
    w = (D · s) · level[code] - (M · t)         K types: fp16 D, M per 256 values, integer s, t per ``sub_block``

``level`` maps the unsigned code to the integer it stands for; formats without a minimum have no m or t.
Byte counts are those of ggml's block structs.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError

# Non-uniform levels of iq4_nl, from ggml's kvalues_iq4nl.
IQ4_NL_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """One storage format. ``block`` divides the row length; ``block_bytes`` is what a block occupies in a file."""

    name: str
    kind: Literal["float", "block", "super"]
    bits: int
    block: int
    block_bytes: int
    levels: tuple[int, ...] = ()
    has_min: bool = False
    sub_block: int = 0

    def fits(self, width: int) -> bool:
        """Whether rows of ``width`` values divide into whole blocks."""
        return width % self.block == 0

    def tensor_bytes(self, values: int) -> int:
        """Bytes of ``values`` stored values (whole blocks)."""
        return values // self.block * self.block_bytes

    @property
    def bits_per_value(self) -> float:
        """Stored bits per value, scales included."""
        return 8 * self.block_bytes / self.block

    def level_array(self) -> NDArray[np.float32]:
        """The integer levels as float32, shape (2**bits,)."""
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


def _super(name: str, bits: int, block_bytes: int, sub: int, levels: tuple[int, ...], *, has_min: bool) -> Format:
    return Format(
        name=name,
        kind="super",
        bits=bits,
        block=256,
        sub_block=sub,
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
    _super("q6_K", 6, 210, 16, _signed(6), has_min=False),
    _super("q5_K", 5, 176, 32, _unsigned(5), has_min=True),
    _super("q4_K", 4, 144, 32, _unsigned(4), has_min=True),
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

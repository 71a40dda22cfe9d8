"""Weights as onnxruntime's ``MatMulNBits`` and ``GatherBlockQuantized`` read them, and back.

Both operators know one grid: an unsigned code of 4 or 8 bits, a scale and a zero point per block of a row,

    w = s · (q - z),      z = 2^(bits-1) where no zero points are given

so every format without a minimum fits to the bit, the odd widths in an 8-bit container:

    format   container   block   q - z is
    q4_0     4 bits      32      its level
    q8_0     8 bits      32      its level
    q5_0     8 bits      32      its level
    iq4_nl   8 bits      32      its level (from the table of sixteen)
    q6_K     8 bits      16      its level; s = D · s of the sub-block, a float32
    q3_K     4 bits      16      its level; s likewise
    iq4_xs   8 bits      32      its level (from the table of sixteen); s likewise
    int8     8 bits      32      its level; s = the row's, the same for all its blocks
    trt_int4_64, _128    4 bits, 64 or 128, its level

A format with a minimum, w = d·c + m, is the same grid plus one number per block,

    w = d · (c - z) + o,      o = m + z·d      in float32

and a matrix product with it is one with the grid plus the block sums of the input times the offsets o. (The operator
also takes float zero points, z = -m/d. In onnxruntime 1.32 these exist for 4 bits only and leave the int8 kernel:
86 ms instead of 5 ms for ten feed-forward blocks of 576 × 1536.) Centring the codes at z keeps the error of int8
activations what it is for the formats without a minimum. q4_1 and q4_K go into 4 bits, q5_1 and q5_K into 8.

Layout, from the operators' schema: codes uint8 (rows, blocks, block · bits / 8), the lower nibble of a byte first;
zero points uint8 (rows, ⌈blocks · bits / 8⌉), packed the same way; scales float32 (rows, blocks), in which fp16 ones
are exact. Rows are contiguous in each, so that matrices stacked along the rows are their bytes one after another.

Scales stored as fp16 behind a Cast would save half a bit per weight. ONNX Runtime folds the Cast when it loads the
model; told not to optimise, its int8 kernel gets scales that are no constants and returns zeros, silently. So float32.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.formats import FORMATS, get_format
from edgepress.artifact.quantized import QuantizedTensor
from edgepress.errors import InputError

# Bits of the container; the formats that are not here cannot be held.
_CONTAINER_BITS = {
    "q3_K": 4,
    "q4_0": 4,
    "q4_1": 4,
    "q4_K": 4,
    "q5_0": 8,
    "q5_1": 8,
    "q5_K": 8,
    "q6_K": 8,
    "iq4_nl": 8,
    "iq4_xs": 8,
    "q8_0": 8,
    "int8": 8,
    "trt_int4_64": 4,
    "trt_int4_128": 4,
}
_ROW_BLOCK = 32  # how rows with one scale are cut, since the operators have no block as long as a row


class Grid(msgspec.Struct, frozen=True, kw_only=True):
    """How a format sits in the operators.

    ``shift`` is added to a level to get the stored code; ``zero`` is the code that stands for nothing. ``affine``
    formats have an offset per block as well.
    """

    format: str
    bits: int
    block: int
    shift: int
    affine: bool

    @property
    def zero(self) -> int:
        """The operators' default zero point."""
        return 1 << (self.bits - 1)

    def blocks(self, columns: int) -> int:
        """Blocks in a row."""
        return columns // self.block

    def codes_shape(self, rows: int, columns: int) -> tuple[int, int, int]:
        """Shape of the packed codes, uint8."""
        return rows, self.blocks(columns), self.block * self.bits // 8


class PackedTensor(msgspec.Struct, frozen=True, kw_only=True):
    """A matrix ready to be written. Shapes as in the module's docstring; ``offsets`` is like ``scales``, or None."""

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    offsets: NDArray[np.float32] | None = None


def held_formats() -> list[str]:
    """Names of the block formats that the operators can hold."""
    return [name for name in FORMATS if name in _CONTAINER_BITS]


def container_block(format: str) -> int:
    """Rows that this many values divide are held as they are: the larger of the format's block and the operators'."""
    spec = get_format(format)
    return 1 if spec.kind == "float" else max(grid(format).block, spec.block)


def grid(format_name: str) -> Grid:
    """The operators' grid for a format.

    Raises:
        InputError: the operators cannot hold the format; lists those that they can.
    """
    if format_name not in _CONTAINER_BITS:
        raise InputError(
            f"ONNX Runtime's MatMulNBits cannot hold {format_name}; it holds {', '.join(held_formats())} "
            "(f16 and f32 are stored as floats)"
        )
    spec, bits = get_format(format_name), _CONTAINER_BITS[format_name]
    # Formats with a minimum have levels 0 … 2^n-1: centre them, the offset takes the rest.
    centre = (int(max(spec.levels)) + 1) // 2 if spec.has_min else 0
    return Grid(
        format=format_name,
        bits=bits,
        block=spec.sub_block or _ROW_BLOCK,
        shift=(1 << (bits - 1)) - centre,
        affine=spec.has_min,
    )


def pack(tensor: QuantizedTensor) -> PackedTensor:
    """A quantized matrix in the operators' layout.

    Raises:
        InputError: see :func:`grid`.
    """
    layout = grid(tensor.format)
    stored = _stored_codes(layout)[tensor.codes]
    step = np.repeat(tensor.step(), tensor.block_size // layout.block, axis=1)
    offsets = None
    if (offset := tensor.offset()) is not None:
        offsets = offset + np.float32(layout.zero - layout.shift) * step
    return PackedTensor(codes=pack_codes(stored, layout.bits, layout.block), scales=step, offsets=offsets)


def unpack(packed: PackedTensor, format_name: str) -> NDArray[np.uint8]:
    """The format's own codes, uint8 (rows, columns): the exact inverse of :func:`pack` for the integers.

    Raises:
        ValueError: a stored code that the format does not have.
    """
    layout = grid(format_name)
    stored = unpack_codes(packed.codes, layout.bits)
    forward = _stored_codes(layout)
    back = np.full(256, -1, dtype=np.int16)
    back[forward] = np.arange(forward.size)
    codes = back[stored]
    if codes.min(initial=0) < 0:
        raise ValueError(f"a stored code stands for no level of {format_name}")
    return codes.astype(np.uint8)


def dequantize(packed: PackedTensor, bits: int) -> NDArray[np.float32]:
    """The values that the operators make of a packed matrix, float32 (rows, columns); zero points are the default."""
    stored = unpack_codes(packed.codes, bits)
    rows, blocks = packed.scales.shape
    levels = (stored.astype(np.int16) - (1 << (bits - 1))).astype(np.float32).reshape(rows, blocks, -1)
    values = levels * packed.scales[..., None]
    if packed.offsets is not None:
        values += packed.offsets[..., None]
    return values.reshape(rows, -1)


def pack_codes(codes: NDArray[np.uint8], bits: int, block: int) -> NDArray[np.uint8]:
    """Codes below 2^bits, uint8 (rows, columns) → uint8 (rows, blocks, block · bits / 8)."""
    rows, columns = codes.shape
    blocked = codes.reshape(rows, columns // block, block)
    return np.ascontiguousarray(blocked) if bits == 8 else _join_nibbles(blocked)


def unpack_codes(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """The inverse of :func:`pack_codes`: uint8 (rows, columns)."""
    rows = packed.shape[0]
    return (packed if bits == 8 else _split_nibbles(packed)).reshape(rows, -1)


def pack_zero_points(zeros: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Zero points below 2^bits, uint8 (rows, blocks) → uint8 (rows, ⌈blocks · bits / 8⌉), a last half byte zero."""
    if bits == 8:
        return np.ascontiguousarray(zeros)
    return _join_nibbles(np.pad(zeros, ((0, 0), (0, zeros.shape[1] % 2))))


def unpack_zero_points(packed: NDArray[np.uint8], bits: int, blocks: int) -> NDArray[np.uint8]:
    """The inverse of :func:`pack_zero_points`: uint8 (rows, blocks)."""
    return packed if bits == 8 else _split_nibbles(packed)[:, :blocks]


def _stored_codes(layout: Grid) -> NDArray[np.uint8]:
    """Stored code for each code of the format, uint8."""
    levels = np.asarray(get_format(layout.format).levels, dtype=np.int16)
    return (levels + layout.shift).astype(np.uint8)


def _join_nibbles(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return values[..., 0::2] | (values[..., 1::2] << np.uint8(4))


def _split_nibbles(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1).reshape(*packed.shape[:-1], -1)

"""QuantizedTensor: what every quantizer returns and every exporter takes.

Codes are unpacked, one byte each; each exporter packs them beside its format's specification. ``dequantize`` repeats
the float32 operations of ggml's decoders in their order, so that its values are those of the shipped file to the bit.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.formats import Format, get_format

Array = NDArray[np.generic]


class QuantizedTensor(msgspec.Struct, frozen=True, kw_only=True):
    """A matrix on the grid of a shipped format; blocks run along the columns (the input features).

    Shapes, for ``rows`` × ``columns`` and the format's block sizes:

    codes          uint8, (rows, columns)                 index into the format's levels
    scales         fp16 (rows, columns / block), or under super scales uint8/int8 (rows, columns / sub_block);
                   fp16 (rows, 1) for channel formats, whose block is the row
    mins           like scales, or None
    super_scales   fp16 (rows, columns / block) for K types and iq4_xs, else None
    super_mins     like super_scales, or None
    """

    format: str
    codes: NDArray[np.uint8]
    scales: Array
    mins: Array | None = None
    super_scales: NDArray[np.float16] | None = None
    super_mins: NDArray[np.float16] | None = None

    @property
    def spec(self) -> Format:
        """The format's table row."""
        return get_format(self.format)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def block_size(self) -> int:
        """Values that share one scale."""
        return self.spec.scale_width(self.shape[1])

    @property
    def axis(self) -> int:
        """The axis that blocks run along."""
        return 1

    def step(self) -> NDArray[np.float32]:
        """Effective scale of each (sub-)block, float32, (rows, columns / sub_block)."""
        return _effective(self.scales, self.super_scales)

    def offset(self) -> NDArray[np.float32] | None:
        """What is added to ``step · level``, float32, (rows, columns / sub_block); None without a minimum."""
        if self.mins is None:
            return None
        value = _effective(self.mins, self.super_mins)
        return value if self.super_mins is None else -value

    def dequantize(self) -> NDArray[np.float32]:
        """The values this tensor stands for, float32, (rows, columns)."""
        rows, columns = self.shape
        size = self.block_size
        values = self.spec.level_array()[self.codes].reshape(rows, columns // size, size)
        values *= self.step()[..., None]
        offset = self.offset()
        if offset is not None:
            values += offset[..., None]
        return values.reshape(rows, columns)

    def rows(self, index: slice | NDArray[np.intp]) -> QuantizedTensor:
        """The tensor restricted to, or reordered by, rows. Exact: no block spans two rows."""

        def take(part: Array | None) -> Array | None:
            return None if part is None else part[index]

        return QuantizedTensor(format=self.format, **{name: take(part) for name, part in self.parts().items()})  # type: ignore[arg-type]

    def parts(self) -> dict[str, Array]:
        """The arrays that make this tensor up, by field name, absent ones left out."""
        fields = ("codes", "scales", "mins", "super_scales", "super_mins")
        return {name: part for name in fields if (part := getattr(self, name)) is not None}


def _effective(fine: Array, coarse: NDArray[np.float16] | None) -> NDArray[np.float32]:
    value = fine.astype(np.float32)
    if coarse is None:
        return value
    per_super = value.shape[1] // coarse.shape[1]
    return np.repeat(coarse.astype(np.float32), per_super, axis=1) * value


def concatenate_rows(parts: list[QuantizedTensor]) -> QuantizedTensor:
    """Stack tensors of one format along the rows."""
    names = parts[0].parts()
    stacked = {name: np.concatenate([part.parts()[name] for part in parts]) for name in names}
    return QuantizedTensor(format=parts[0].format, **stacked)

"""The state of a matrix while it is being solved: levels and scales as floats, on the values that ship."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from edgepress.artifact.formats import Format
from edgepress.artifact.quantized import QuantizedTensor
from edgepress.compress.quantize.gptaq.grid import Grid, inverse
from edgepress.compress.quantize.gptaq.lattice import Lattice


@dataclass
class Rounded:
    """Ŵ = scale · level + minimum, block by block along the columns.

    levels         float32, (rows, columns)
    scale          float32, (rows, blocks), what a block's levels are multiplied by
    minimum        like scale; zeros for formats without one
    super_scale    float32, (rows, super-blocks), for the K types, else None
    super_minimum  like super_scale, for the K types with a minimum
    """

    spec: Format
    levels: torch.Tensor
    scale: torch.Tensor
    minimum: torch.Tensor
    super_scale: torch.Tensor | None = None
    super_minimum: torch.Tensor | None = None

    @classmethod
    def empty(cls, spec: Format, rows: int, columns: int) -> Rounded:
        """All zero."""
        blocks = columns // spec.scale_width(columns)
        state = cls(spec, torch.zeros(rows, columns), torch.zeros(rows, blocks), torch.zeros(rows, blocks))
        if spec.kind == "super":
            state.super_scale = torch.zeros(rows, columns // spec.block)
            state.super_minimum = torch.zeros(rows, columns // spec.block) if spec.has_min else None
        return state

    @property
    def width(self) -> int:
        """Columns of a block."""
        return self.levels.shape[1] // self.scale.shape[1]

    def columns(self, block: int) -> slice:
        """The columns of a block."""
        return slice(block * self.width, (block + 1) * self.width)

    def values(self) -> torch.Tensor:
        """Ŵ, float32, (rows, columns)."""
        rows, columns = self.levels.shape
        grouped = self.levels.view(rows, -1, self.width)
        return (grouped * self.scale[..., None] + self.minimum[..., None]).view(rows, columns)

    def block_values(self, block: int) -> torch.Tensor:
        """Ŵ of one block, (rows, width)."""
        levels = self.levels[:, self.columns(block)]
        return levels * self.scale[:, block, None] + self.minimum[:, block, None]

    def lattice(self, block: int) -> Lattice:
        """Where a block's scale may lie."""
        if self.super_scale is None:
            return Lattice(positive=self.spec.positive)
        at = block * self.width // self.spec.block
        minimum = None if self.super_minimum is None else self.super_minimum[:, at]
        return Lattice(self.super_scale[:, at], minimum, scale_range=self.spec.scale_range)

    def integers(self) -> tuple[torch.Tensor, torch.Tensor]:
        """For the K types: the integers s and t of every sub-block, (rows, blocks)."""
        assert self.super_scale is not None
        per_super = self.spec.block // self.width
        scale = self.scale * inverse(self.super_scale.repeat_interleave(per_super, 1))
        if self.super_minimum is None:
            return scale.round_(), torch.zeros_like(scale)
        minimum = -self.minimum * inverse(self.super_minimum.repeat_interleave(per_super, 1))
        return scale.round_(), minimum.round_()

    def finish(self, grid: Grid) -> QuantizedTensor:
        """As the artifact stores it."""
        codes = grid.codes(self.levels).numpy()
        if self.super_scale is None:
            offsets = _fp16(self.minimum) if self.spec.has_min else None
            return QuantizedTensor(format=self.spec.name, codes=codes, scales=_fp16(self.scale), mins=offsets)
        kind = np.uint8 if self.spec.has_min else np.int8
        scales, mins = (part.numpy() for part in self.integers())
        return QuantizedTensor(
            format=self.spec.name,
            codes=codes,
            scales=scales.astype(kind),
            mins=mins.astype(kind) if self.spec.has_min else None,
            super_scales=_fp16(self.super_scale),
            super_mins=None if self.super_minimum is None else _fp16(self.super_minimum),
        )


def _fp16(value: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
    return value.half().numpy()

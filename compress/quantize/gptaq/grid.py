"""The levels of a format as torch sees them: nearest level, and the code of a level."""

from __future__ import annotations

import torch

from edgepress.artifact.formats import Format


class Grid:
    """Levels of a format. Levels are held as float32, so that w ≈ scale · level + minimum."""

    def __init__(self, spec: Format) -> None:
        self.spec = spec
        self.levels = torch.tensor(spec.levels, dtype=torch.float32)
        self.low, self.high = float(spec.levels[0]), float(spec.levels[-1])
        self.uniform = self.high - self.low == len(spec.levels) - 1
        self._midpoints = (self.levels[1:] + self.levels[:-1]) / 2
        # Midpoints are multiples of half the least gap between levels, so a table over cells of that size is exact.
        self.cells_per_unit = 2 / spec.gap
        self._origin = int(self.cells_per_unit * self.low) - 1
        cells = (torch.arange(self._origin, int(self.cells_per_unit * self.high) + 2) + 0.5) / self.cells_per_unit
        self.table = self.levels[torch.bucketize(cells, self._midpoints)]

    def nearest(self, scaled: torch.Tensor) -> torch.Tensor:
        """The level nearest to each value, same shape; overwrites ``scaled`` on uniform grids."""
        if self.uniform:
            return scaled.round_().clamp_(self.low, self.high)
        cell = (scaled * self.cells_per_unit).floor_().sub_(self._origin).clamp_(0, len(self.table) - 1)
        return self.table[cell.to(torch.int32)]

    def codes(self, levels: torch.Tensor) -> torch.Tensor:
        """uint8 codes of levels."""
        if self.uniform:
            return (levels - self.low).to(torch.uint8)
        return torch.bucketize(levels, self._midpoints).to(torch.uint8)


def inverse(value: torch.Tensor) -> torch.Tensor:
    """1 / value, and 0 where value is 0."""
    return torch.where(value != 0, 1 / value, torch.zeros_like(value))

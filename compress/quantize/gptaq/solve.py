"""One matrix, its inputs' statistics, one format → a QuantizedTensor."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.artifact.formats import get_format
from edgepress.artifact.quantized import QuantizedTensor, concatenate_rows
from edgepress.compress.calibrate.moments import InputStatistics
from edgepress.compress.quantize.gptaq.descent import Descent
from edgepress.compress.quantize.gptaq.grid import Grid
from edgepress.compress.quantize.gptaq.refit import refit
from edgepress.compress.quantize.gptaq.rounded import Rounded
from edgepress.compress.quantize.gptaq.sweep import sweep, upper_factor
from edgepress.compress.quantize.gptaq.target import asymmetric_target, damped

Floats = NDArray[np.float32]
_BAND_VALUES = 1 << 20


class InputSolver:
    """Quantizes the matrices that read the same inputs; the factors of the Hessian are shared between them."""

    def __init__(self, statistics: InputStatistics) -> None:
        self._statistics = statistics
        self._hessian = damped(statistics.hessian)
        self._single = self._hessian.float()
        self._descents: dict[str, Descent] = {}

    def quantize(self, weight: Floats, format: str) -> QuantizedTensor:
        """Quantize a matrix.

        Args:
            weight: float32, (rows, columns), finite.
            format: a block format that divides the columns.

        Raises:
            InputError: a scale beyond fp16's range.
        """
        grid = Grid(get_format(format))
        if format not in self._descents:
            self._descents[format] = Descent(self._hessian, grid.spec.scale_width(weight.shape[1]), grid)
        return self._in_bands(weight, grid, self._descend)

    def trial(self, weight: Floats, format: str) -> QuantizedTensor:
        """The sweep alone, without the descent and refits behind it: some percent worse, in a third of the time."""
        return self._in_bands(weight, Grid(get_format(format)), self._sweep)

    def _in_bands(self, weight: Floats, grid: Grid, solve: Callable[[torch.Tensor, Grid], Rounded]) -> QuantizedTensor:
        target = asymmetric_target(torch.from_numpy(weight), self._statistics, self._hessian)
        bands = target.split(max(1, _BAND_VALUES // weight.shape[1]))
        return concatenate_rows([solve(rows, grid).finish(grid) for rows in bands])

    @cached_property
    def _upper(self) -> torch.Tensor:
        return upper_factor(self._hessian)

    def _sweep(self, target: torch.Tensor, grid: Grid) -> Rounded:
        return sweep(target, self._upper, self._single.diagonal(), grid.spec, grid)

    def _descend(self, target: torch.Tensor, grid: Grid) -> Rounded:
        state, descent = self._sweep(target, grid), self._descents[grid.spec.name]
        descent.improve(state, target, search=True)
        refit(state, target, self._single)
        descent.improve(state, target, search=False)
        return state

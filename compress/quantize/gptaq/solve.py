"""One matrix, its inputs' statistics, one format → a QuantizedTensor."""

from __future__ import annotations

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
        spec = get_format(format)
        grid = Grid(spec)
        columns = weight.shape[1]
        if format not in self._descents:
            self._descents[format] = Descent(self._hessian, spec.scale_width(columns), grid)
        target = asymmetric_target(torch.from_numpy(weight), self._statistics, self._hessian)
        band = max(1, _BAND_VALUES // columns)
        states = [self._band(rows, grid) for rows in target.split(band)]
        return concatenate_rows([state.finish(grid) for state in states])

    @cached_property
    def _upper(self) -> torch.Tensor:
        return upper_factor(self._hessian)

    def _band(self, target: torch.Tensor, grid: Grid) -> Rounded:
        descent = self._descents[grid.spec.name]
        state = sweep(target, self._upper, self._single.diagonal(), grid.spec, grid)
        descent.improve(state, target, search=True)
        refit(state, target, self._single)
        descent.improve(state, target, search=False)
        return state

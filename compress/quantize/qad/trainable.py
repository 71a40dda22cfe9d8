"""One quantized tensor as parameters: continuous codes, and a gain for every fp16 number that its format stores.

    scale = fp16(d · gain)                 formats with a scale per block or row
    scale = fp16(D · gain) · s             K types: the integers s (and t) of the sub-blocks stay

A gain starts at 1, so that one learning rate means the same relative change in every format. Codes start at the levels
that the solver chose, pulled towards the original weights by at most ``_PULL`` of a gap: inside their cell, so that
nothing changes at the start, and nearest to the border where the solver moved a weight the furthest.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgepress.artifact.quantized import QuantizedTensor
from edgepress.compress.quantize.gptaq.grid import Grid, inverse
from edgepress.compress.quantize.qad.straight_through import grid_values, mean_gap

_PULL = 0.3
_FP16_TINY = 2.0**-24


class TrainableTensor(nn.Module):
    """A quantized tensor that gradient descent can move; ``finish`` gives it back as the format stores it."""

    def __init__(self, start: QuantizedTensor, original: NDArray[np.float32]) -> None:
        """Start at a solved tensor.

        Args:
            start: what the solver found.
            original: the weights that it stands for, float32, (rows, columns).
        """
        super().__init__()
        self._start, self.grid = start, Grid(start.spec)
        self._coarse = _float(start.scales if start.super_scales is None else start.super_scales)
        offsets = start.mins if start.super_mins is None else start.super_mins
        self._coarse_offset = None if offsets is None else _float(offsets)
        self.gain = nn.Parameter(torch.ones_like(self._coarse))
        self.offset_gain = None if self._coarse_offset is None else nn.Parameter(torch.ones_like(self._coarse))
        self.codes = nn.Parameter(self._pulled(torch.from_numpy(original)))

    @property
    def gap(self) -> float:
        """Mean distance of neighbouring levels, the natural unit of a step of the codes."""
        return mean_gap(self.grid)

    def values(self) -> torch.Tensor:
        """What the tensor stands for now, float32, (rows, columns), differentiable."""
        return grid_values(self.codes, self._scale(), self._minimum(), self.grid)

    @torch.no_grad()
    def finish(self) -> QuantizedTensor:
        """As the artifact stores it."""
        codes = self.grid.codes(self.grid.nearest(self.codes.detach().clone())).numpy()
        stored = {"codes": codes} | {name: part for name, part in self._start.parts().items() if name != "codes"}
        stored["scales" if self._start.super_scales is None else "super_scales"] = _half(self._fp16_scale())
        if self._coarse_offset is not None:
            stored["mins" if self._start.super_mins is None else "super_mins"] = _half(self._fp16_offset())
        return QuantizedTensor(format=self._start.format, **stored)

    def _scale(self) -> torch.Tensor:
        scale = self._fp16_scale()
        return scale if self._start.super_scales is None else _spread(scale, _float(self._start.scales))

    def _minimum(self) -> torch.Tensor:
        if self._coarse_offset is None:
            return torch.zeros(self._start.scales.shape)
        offset = self._fp16_offset()
        if self._start.super_mins is None:
            return offset
        assert self._start.mins is not None
        return -_spread(offset, _float(self._start.mins))

    def _fp16_scale(self) -> torch.Tensor:
        scale = to_fp16(self._coarse * self.gain)
        return scale.clamp(min=_FP16_TINY) if self._start.spec.positive else scale

    def _fp16_offset(self) -> torch.Tensor:
        assert self._coarse_offset is not None and self.offset_gain is not None
        return to_fp16(self._coarse_offset * self.offset_gain)

    @torch.no_grad()
    def _pulled(self, original: torch.Tensor) -> torch.Tensor:
        scale, minimum = self._scale()[..., None], self._minimum()[..., None]
        levels = self.grid.levels[torch.from_numpy(self._start.codes.astype(np.int64))]
        wanted = (original.view(*scale.shape[:-1], -1) - minimum) * inverse(scale)
        pull = _PULL * self.gap
        return levels + (wanted.view(levels.shape) - levels).clamp_(-pull, pull)


def to_fp16(value: torch.Tensor) -> torch.Tensor:
    """Rounded to fp16's numbers, as float32, with the gradient of the identity."""
    return value + (value.detach().half().float() - value.detach())


def _spread(coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
    """A super-block's number times its sub-blocks' integers, (rows, sub-blocks)."""
    return coarse.repeat_interleave(fine.shape[1] // coarse.shape[1], 1) * fine


def _float(part: NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(part.astype(np.float32))


def _half(value: torch.Tensor) -> NDArray[np.float16]:
    half: NDArray[np.float16] = value.detach().half().numpy()
    return half

"""The scales and minima that a format can store.

32-wide and longer blocks store fp16 numbers. The K types store, per sub-block, an integer times a number that a whole
super-block shares: w = (D · s) · level - (M · t). D and M are fixed by the weighted search of ``k_affine_search`` and
``k_symmetric_search`` when the sweep enters a super-block, on the weights as they are by then; from there on a
sub-block's scale is a point of a lattice like any other, and ``refit`` moves D and M at the end.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from edgepress.artifact.formats import Format
from edgepress.compress.quantize.gptaq.grid import inverse
from edgepress.compress.quantize.grid import FP16_MAX
from edgepress.compress.quantize.k_affine import quantize_k_affine
from edgepress.compress.quantize.k_symmetric import quantize_k_symmetric
from edgepress.errors import InputError

_FP16_TINY = 2.0**-24


class Lattice(NamedTuple):
    """Super scales of a column of super-blocks, (rows,) each, and the range of the integers under them; both None for
    formats that store fp16 directly, some of which take positive scales only.
    """

    super_scale: torch.Tensor | None = None
    super_minimum: torch.Tensor | None = None
    positive: bool = False
    scale_range: tuple[int, int] = (0, 0)

    def snap(self, scale: torch.Tensor, minimum: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest scales and minima that can be stored; both (candidates, rows)."""
        if self.super_scale is None:
            return to_fp16(scale.abs().clamp(min=_FP16_TINY) if self.positive else scale), to_fp16(minimum)
        integers = (scale * inverse(self.super_scale)).round_().clamp_(*self.scale_range)
        if self.super_minimum is None:
            return self.super_scale * integers, minimum
        offsets = (-minimum * inverse(self.super_minimum)).round_().clamp_(*self.scale_range)
        return self.super_scale * integers, -(self.super_minimum * offsets)


def to_fp16(value: torch.Tensor) -> torch.Tensor:
    """Rounded to fp16, as float32.

    Raises:
        InputError: a value beyond fp16's range, which no block format can store.
    """
    rounded = value.half().float()
    if not torch.isfinite(rounded).all():
        largest = float(value.abs().max())
        raise InputError(
            f"a block's scale of {largest:.3g} exceeds fp16's {FP16_MAX:.0f}; no block format can hold these weights"
        )
    return rounded


def super_scales(
    weight: torch.Tensor, importance: torch.Tensor, spec: Format
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """D and M of a column of super-blocks, float32, (rows,); M is None for formats without a minimum.

    Args:
        weight: float32, (rows, 256), as the sweep left them.
        importance: float32, (256,), diagonal of the Hessian there.
    """
    solve = quantize_k_affine if spec.has_min else quantize_k_symmetric
    found = solve(weight.contiguous().numpy(), spec.name, importance.numpy(), search=True)
    assert found.super_scales is not None
    scale = torch.from_numpy(found.super_scales[:, 0].astype("float32"))
    if found.super_mins is None:
        return scale, None
    return scale, torch.from_numpy(found.super_mins[:, 0].astype("float32"))

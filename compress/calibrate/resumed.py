"""Blocks of a layer that resume from the inputs of their last linear, so that what leads to them is not repeated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from edgepress.artifact.families import LINEARS

# The last linear of a block, and whether the block returns a tuple.
LAST = {LINEARS["attn_output"]: True, LINEARS["ffn_down"]: False}


@contextmanager
def resumed(layer: nn.Module, inputs: dict[str, torch.Tensor]) -> Iterator[None]:
    """Within it blocks resume from the inputs of their last linears, given by the linear's name in the layer."""
    blocks = {part.rpartition(".")[0]: layer.get_submodule(part.rpartition(".")[0]) for part in inputs}
    try:
        for part, values in inputs.items():
            setattr(layer, part.rpartition(".")[0], _Resumed(layer.get_submodule(part), values, LAST[part]))
        yield
    finally:
        for name, block in blocks.items():
            setattr(layer, name, block)


class _Resumed(nn.Module):
    """Stands for a block of which the inputs of its last linear are known."""

    def __init__(self, last: nn.Module, inputs: torch.Tensor, in_tuple: bool) -> None:
        super().__init__()
        self._last, self._inputs, self._in_tuple = last, inputs, in_tuple

    def forward(self, *_: Any, **__: Any) -> torch.Tensor | tuple[torch.Tensor, None]:
        output: torch.Tensor = self._last(self._inputs)
        return (output, None) if self._in_tuple else output

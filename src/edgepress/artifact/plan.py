"""ModelPlan: a model about to be written, with the shape and format of each tensor but none of its values.

Exporters predict the exact size of their files from it, before any work; a checkpoint has one too.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any, Literal

import msgspec

from edgepress.artifact.formats import get_format
from edgepress.artifact.spec import ModelSpec

ActivationFormat = Literal["float", "int8", "fp8"]


class TensorPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor: Hugging Face name, shape, and the name of the format it ships in.

    ``input_format`` is that of the activations that a linear multiplies: float, or int8 or fp8 with one static scale.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    input_format: ActivationFormat = "float"

    @property
    def values(self) -> int:
        """Number of values."""
        return prod(self.shape)

    @property
    def data_bytes(self) -> int:
        """Bytes of the packed values."""
        return get_format(self.format).tensor_bytes(self.values, self.shape[0])


class ModelPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A model's configuration and tensors. A tied head is not among ``tensors``."""

    name: str
    spec: ModelSpec
    config: dict[str, Any]
    tokenizer_dir: Path
    tensors: tuple[TensorPlan, ...]

    def format(self, name: str) -> str:
        """Format of a tensor, by Hugging Face name."""
        return next(tensor.format for tensor in self.tensors if tensor.name == name)

    @property
    def parameters(self) -> int:
        """Number of stored parameters, a tied head counted once."""
        return sum(tensor.values for tensor in self.tensors)

"""WeightSource: anything that hands out a model's tensors one at a time.

Students (Hugging Face directories, GGUF files) and checkpoints are weight sources. Tensors are read lazily, so that
memory does not grow with the model's depth.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.spec import ModelSpec


class WeightSource(Protocol):
    """A model's configuration, tokenizer and tensors."""

    @property
    def spec(self) -> ModelSpec:
        """The model's shape."""

    @property
    def config(self) -> dict[str, Any]:
        """The Hugging Face ``config.json``."""

    @property
    def tokenizer_dir(self) -> Path:
        """A directory with the Hugging Face tokenizer's files."""

    @property
    def names(self) -> tuple[str, ...]:
        """Hugging Face names of all tensors; a tied head is not listed."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""

    def read(self, name: str) -> NDArray[np.float32]:
        """A tensor's values, dequantized."""

    def digest(self) -> str:
        """sha256 that changes whenever any weight or the configuration changes."""

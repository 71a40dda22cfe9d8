"""A student that knows nothing: transformers' own initialisation of a configuration, by a seed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from edgepress.artifact.weights import WeightSource
from edgepress.compress.distill.smaller import Size
from edgepress.compress.student.expected import expected_shapes


class RandomWeights:
    """A :class:`~edgepress.artifact.weights.WeightSource` of random weights with the tokenizer of another model."""

    def __init__(self, teacher: WeightSource, size: Size, seed: int) -> None:
        """Draw all weights; the random state of the caller stays.

        Args:
            teacher: gives the tokenizer.
            size: the student's configuration.
            seed: of the weights.
        """
        self.spec, self.config = size.spec, size.config
        self.tokenizer_dir: Path = teacher.tokenizer_dir
        self._shapes = expected_shapes(self.spec, self.config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = transformers.AutoConfig.for_model(**self.config)
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        self._tensors: dict[str, torch.Tensor] = model.state_dict()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors; a tied head is not listed."""
        return tuple(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._shapes[name]

    def read(self, name: str) -> NDArray[np.float32]:
        """A tensor's values, a copy."""
        return np.array(self._tensors[name].numpy(), np.float32)

    def digest(self) -> str:
        """Of the configuration and of every number."""
        total = hashlib.sha256(repr(sorted(self.config.items(), key=str)).encode())
        for name in self.names:
            total.update(self._tensors[name].numpy().tobytes())
        return total.hexdigest()

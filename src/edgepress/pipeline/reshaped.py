"""A student as a step will leave it: its shapes, without the weights, to be planned with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.hf_config import model_spec, with_shapes
from edgepress.compress.student.expected import expected_shapes
from edgepress.compress.student.student import StoredTensor, Student


class NarrowerStudent(Student):
    """With fewer channels of the residual stream."""

    def __init__(self, student: Student, hidden: int) -> None:
        """Take the student's layers on ``hidden`` channels."""
        self.name, self.source, self.notes = student.name, student.source, student.notes
        spec = student.spec
        tied = {"tie_word_embeddings": spec.tied}
        self.config = with_shapes(student.config | tied, spec.layers, spec.head_dim, hidden)
        self.spec = model_spec(self.config, tied=spec.tied)
        shapes = expected_shapes(self.spec, self.config)
        self.tensors = {name: StoredTensor(shape, "F32") for name, shape in shapes.items()}
        self._student = student

    @property
    def tokenizer_dir(self) -> Path:
        """The student's."""
        return self._student.tokenizer_dir

    def _load(self, name: str) -> NDArray[np.float32]:
        raise AssertionError(f"{name}: only shapes are known")

    def _files(self) -> tuple[Path, ...]:
        return self._student._files()

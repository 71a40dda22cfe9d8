"""A checkpoint of an earlier run as a student: compress further, or measure against it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.checkpoint import MODEL_SUFFIXES, Checkpoint
from edgepress.compress.student.expected import in_expected_order
from edgepress.compress.student.hf_tokenizer import tokenizer_files, tokenizer_json_dir
from edgepress.compress.student.student import StoredTensor, Student
from edgepress.errors import InputError

_FLOATS = ("f32", "f16")


class CheckpointStudent(Student):
    """A student in a directory that edgepress wrote.

    Raises:
        InputError: the checkpoint is damaged.
    """

    def __init__(self, directory: Path) -> None:
        self.source = str(directory)
        try:
            self._checkpoint = Checkpoint(directory)
            names = self._checkpoint.names
            stored = {name: StoredTensor(self._checkpoint.shape(name), self._checkpoint.format(name)) for name in names}
        except (AttributeError, LookupError, TypeError) as error:
            raise InputError(f"{directory}: damaged checkpoint ({type(error).__name__}: {error})") from error
        self.name = self._checkpoint.name
        self.spec, self.config = self._checkpoint.spec, self._checkpoint.config
        self.tensors = in_expected_order(stored, self.spec, self.config, str(directory))
        self._tokenizer_dir = tokenizer_json_dir(directory, tokenizer_files(directory))
        self.notes = _notes(self.tensors, bool(self._checkpoint.activation_scales))

    @property
    def tokenizer_dir(self) -> Path:
        """The checkpoint's own directory."""
        return self._tokenizer_dir

    def _load(self, name: str) -> NDArray[np.float32]:
        return self._checkpoint.read(name)

    def _files(self) -> tuple[Path, ...]:
        files = self._checkpoint.directory.iterdir()
        return tuple(sorted(path for path in files if path.suffix in MODEL_SUFFIXES))


def _notes(tensors: dict[str, StoredTensor], static_inputs: bool) -> tuple[str, ...]:
    formats = sorted({tensor.type for tensor in tensors.values()} - set(_FLOATS))
    if not formats:
        return ()
    note = f"the weights were already compressed by edgepress ({', '.join(formats)}): losses add to the earlier ones"
    dropped = "its rounded activations are left behind: as a student the checkpoint computes with float inputs"
    return (note, dropped) if static_inputs else (note,)

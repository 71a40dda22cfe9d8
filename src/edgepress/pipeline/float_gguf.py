"""The student itself as a GGUF file, unquantized."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.compress.quantize.assign import assign_formats
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.quantize.layers import quantize_model
from edgepress.compress.student.student import Student


def write_float_gguf(student: Student, format: Literal["f16", "f32"], path: Path) -> None:
    """Write a student's weights in a float format; a checkpoint stands beside the file until it is written.

    Raises:
        InputError: llama.cpp cannot represent the model, or weights that the format cannot hold.
    """
    from edgepress.export.gguf.writer import export_gguf

    step, working = QuantizeStep(solver="nearest", format=format), path.with_name("checkpoint")
    working.mkdir()
    quantize_model(student, step, assign_formats(student, step), None, working, name=student.name)
    export_gguf(Checkpoint(working), path)
    shutil.rmtree(working)

"""A tiny model as every engine opens it, made without any solver of edgepress."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from checkpoints import write_checkpoint
from tiny_models import make_model_dir

from edgepress.artifact.families import is_matrix
from edgepress.export.gguf import export_gguf
from edgepress.export.onnx.writer import export_onnx
from edgepress.runtime.locate import Engine, ModelFile, choose_model


def export_everywhere(model_dir: Path, out: Path, format: str = "f32") -> Path:
    """Write ``checkpoint``, ``gguf/model.gguf`` and ``onnx`` of a Hugging Face directory below ``out``."""
    checkpoint = write_checkpoint(model_dir, out / "checkpoint", lambda name: format if is_matrix(name) else "f32")
    (out / "gguf").mkdir()
    (out / "onnx").mkdir()
    export_gguf(checkpoint, out / "gguf" / "model.gguf")
    export_onnx(checkpoint, out / "onnx")
    return out


def export_tiny(family: str, out: Path, format: str = "f32", **options: Any) -> Path:
    """The same for a tiny random model of a family."""
    return export_everywhere(make_model_dir(family, out / "student", **options), out, format)


def model_for(out: Path, engine: Engine) -> ModelFile:
    """The model below ``out`` that an engine opens."""
    return choose_model(out, engine)

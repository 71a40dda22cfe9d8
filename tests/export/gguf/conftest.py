"""Checkpoints and GGUF files shared by the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoints import write_checkpoint

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import is_matrix
from edgepress.export.gguf import export_gguf

Exported = tuple[Checkpoint, Path]

# Every 32-wide format somewhere, floats too: layers take turns.
MIXED = ("q8_0", "q5_0", "q5_1", "q4_0", "q4_1", "iq4_nl", "f16", "f32")


def mixed_format(name: str) -> str:
    return MIXED[sum(name.encode()) % len(MIXED)] if is_matrix(name) else "f32"


@pytest.fixture(scope="session")
def float_export(family_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A float32 checkpoint of each family and its GGUF file."""
    return export(family_dir, tmp_path_factory.mktemp("float"), lambda _: "f32")


@pytest.fixture(scope="session")
def mixed_export(family_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A checkpoint of each family with a different format in every matrix, and its GGUF file."""
    return export(family_dir, tmp_path_factory.mktemp("mixed"), mixed_format)


def export(model_dir: Path, working: Path, formats: object) -> Exported:
    checkpoint = write_checkpoint(model_dir, working / "checkpoint", formats)  # type: ignore[arg-type]
    export_gguf(checkpoint, working / "model.gguf")
    return checkpoint, working / "model.gguf"

"""A tiny ViT as it is exported for TensorRT: once for a module, and a copy of it for a test to spoil."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from encoders import calibration_for, make_encoder_dir

from edgepress.export.encoder.write import export_encoder


@pytest.fixture(scope="module", name="made")
def exported_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("vit")
    out = place / "out"
    out.mkdir()
    export_encoder(make_encoder_dir("vit", place / "student"), out, calibration=calibration_for("vit", place))
    return out


@pytest.fixture(name="exported")
def exported_copy(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "tensorrt")
    return tmp_path / "tensorrt"

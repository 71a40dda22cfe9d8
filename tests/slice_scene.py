"""Models of every kind that is cut, with sizes, text and pictures, as the directory that a test runs in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sliceable import make_model, write
from tiny_models import CORPUS, make_model_dir

DECODER = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 64}
ENCODER = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 24}


@pytest.fixture(name="scene", scope="module")
def make_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, sizes, text and pictures."""
    root = tmp_path_factory.mktemp("slice")
    make_model_dir("llama", root / "llama")
    for name, architecture in (("bert", "BertModel"), ("classifier", "BertForSequenceClassification")):
        write(make_model(architecture), root / name)
    write(make_model("ViTForImageClassification"), root / "vit")
    (root / "decoder.json").write_text(json.dumps(DECODER), encoding="utf-8")
    (root / "encoder.json").write_text(json.dumps(ENCODER), encoding="utf-8")
    (root / "text.txt").write_text(CORPUS * 24, encoding="utf-8")
    np.save(root / "pictures.npy", np.random.default_rng(0).standard_normal((8, 3, 16, 16)).astype(np.float32))
    return root


@pytest.fixture(autouse=True)
def in_the_scene(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scene)

"""The hyperparameters in a file, under the reference reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_checkpoint
from tiny_models import make_model_dir

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import is_matrix
from edgepress.export.gguf import export_gguf

gguf = pytest.importorskip("gguf")


def _fields(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def test_shape_and_rotation_are_those_of_the_configuration(mixed_export: tuple[Checkpoint, Path]) -> None:
    checkpoint, path = mixed_export
    config, fields = checkpoint.config, _fields(path)
    name = fields["general.architecture"]
    assert fields["general.name"] == checkpoint.name
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    expected = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "rope.dimension_count": head_dim,
        "vocab_size": config["vocab_size"],
    }
    assert {key: fields[f"{name}.{key}"] for key in expected} == expected
    assert fields[f"{name}.attention.layer_norm_rms_epsilon"] == pytest.approx(config["rms_norm_eps"])


def test_both_rotations_and_the_window_of_a_gemma_are_named(mixed_export: tuple[Checkpoint, Path]) -> None:
    checkpoint, path = mixed_export
    fields = _fields(path)
    name = fields["general.architecture"]
    rope = checkpoint.config["rope_parameters"]
    if "sliding_attention" in rope:
        assert fields[f"{name}.rope.freq_base"] == rope["full_attention"]["rope_theta"]
        assert fields[f"{name}.rope.freq_base_swa"] == rope["sliding_attention"]["rope_theta"]
        assert fields[f"{name}.attention.sliding_window"] == checkpoint.config["sliding_window"]
    else:
        assert fields[f"{name}.rope.freq_base"] == rope["rope_theta"]
        assert f"{name}.attention.sliding_window" not in fields


@pytest.mark.parametrize("format", ["q6_K", "iq4_xs", "q3_K"])
def test_a_file_of_one_super_block_format_is_named_after_it(format: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4}
    model = make_model_dir("llama", tmp_path / "model", **sizes)
    checkpoint = write_checkpoint(model, tmp_path / "out", lambda name: format if is_matrix(name) else "f32")
    export_gguf(checkpoint, tmp_path / "model.gguf")
    named = gguf.LlamaFileType(_fields(tmp_path / "model.gguf")["general.file_type"]).name
    assert named.removesuffix("_S") == f"MOSTLY_{format.upper()}"


def test_the_file_type_is_that_of_most_values(float_export: tuple[Checkpoint, Path]) -> None:
    assert _fields(float_export[1])["general.file_type"] == gguf.LlamaFileType.ALL_F32

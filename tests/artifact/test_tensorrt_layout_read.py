"""tensorrt.json says what its graph is, or is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import edgepress, edgepress_process
from standard_graphs import checkpoint, exported

from edgepress.artifact.tensorrt_layout import read_layout
from edgepress.errors import InputError


@pytest.fixture
def directory(llama_dir: Path, tmp_path: Path) -> Path:
    return exported(checkpoint(llama_dir, tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"layers": []}, "without layers"),
        ({"head_dim": -4}, "sizes below 1"),
        ({"inputs": ["past_key_values.x.key"]}, "its inputs and outputs are not those of 2 layers"),
        ({"outputs": ["logits"]}, "its inputs and outputs are not those of 2 layers"),
        ({"layers": [{"kv_heads": 2}]}, "its inputs and outputs are not those of 1 layers"),
        ({"batch": 0}, "sizes below 1"),
        ({"call_tokens": 9999}, "calls of 9999 tokens in a context of"),
    ],
)
def test_a_layout_that_describes_no_graph_is_refused(directory: Path, changes: dict[str, Any], says: str) -> None:
    file = directory / "tensorrt.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | changes), encoding="utf-8")
    with pytest.raises(InputError, match=f"tensorrt.json: .*{says}"):
        read_layout(directory)
    assert says in edgepress("engine", "script", directory).error()


def test_truncated_weights_are_one_line(directory: Path, tmp_path: Path) -> None:
    data, prompts = directory / "model.onnx.data", tmp_path / "prompts.txt"
    data.write_bytes(data.read_bytes()[:1000])
    prompts.write_text("Hello\n", encoding="utf-8")
    done = edgepress_process("generate", directory, "--prompts", prompts, "--tokens", "2")
    assert "ONNX Runtime cannot open this model" in done.error()

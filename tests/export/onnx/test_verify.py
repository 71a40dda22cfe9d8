"""Reading back finds every byte that is not what the checkpoint says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from checkpoints import write_checkpoint
from tiny_models import make_model_dir

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import EMBEDDING, is_matrix
from edgepress.errors import ParityError
from edgepress.export.onnx.matmulnbits import held_formats
from edgepress.export.onnx.verify import verify_onnx
from edgepress.export.onnx.writer import export_onnx

ROLES = {"q_proj": "q4_1", "down_proj": "q5_0", "o_proj": "f16", "up_proj": "iq4_nl", "gate_proj": "f32"}


def mixed(name: str) -> str:
    if not is_matrix(name):
        return "f32"
    return "q8_0" if name == EMBEDDING else ROLES.get(name.split(".")[-2], "q4_0")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Path]:
    """A checkpoint in which every kind of storage occurs, and its export."""
    out = tmp_path_factory.mktemp("verify")
    model = make_model_dir("qwen2", out / "model", tie_word_embeddings=True, num_hidden_layers=1)
    source, directory = write_checkpoint(model, out / "checkpoint", mixed), out / "onnx"
    directory.mkdir()
    export_onnx(source, directory)
    return source, directory


@pytest.fixture
def copy(pair: tuple[Checkpoint, Path], tmp_path: Path) -> Iterator[Path]:
    yield shutil.copytree(pair[1], tmp_path / "onnx")


def places(directory: Path) -> dict[str, tuple[int, int]]:
    """Offset and length of every initializer in the data file."""
    graph = onnx.load(str(directory / "model.onnx"), load_external_data=False).graph
    found = {}
    for tensor in graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if place:
            found[tensor.name] = (int(place["offset"]), int(place["length"]))
    return found


def test_an_untouched_export_passes(pair: tuple[Checkpoint, Path]) -> None:
    verify_onnx(pair[1], pair[0])


@pytest.mark.parametrize("format", ["f32", "f16", *held_formats()])
def test_every_format_passes(format: str, tmp_path: Path) -> None:
    model = make_model_dir("llama", tmp_path / "model", hidden_size=256, intermediate_size=256, num_hidden_layers=1)
    source = write_checkpoint(model, tmp_path / "checkpoint", lambda name: format if is_matrix(name) else "f32")
    (tmp_path / "onnx").mkdir()
    export_onnx(source, tmp_path / "onnx")
    verify_onnx(tmp_path / "onnx", source)


def test_every_family_passes(family_dir: Path, tmp_path: Path) -> None:
    source = write_checkpoint(family_dir, tmp_path / "checkpoint", lambda name: "q4_0" if is_matrix(name) else "f32")
    (tmp_path / "onnx").mkdir()
    export_onnx(source, tmp_path / "onnx")
    verify_onnx(tmp_path / "onnx", source)


def test_one_flipped_bit_in_any_initializer_is_found(pair: tuple[Checkpoint, Path], copy: Path) -> None:
    source, data = pair[0], copy / "model.onnx.data"
    original = data.read_bytes()
    random = np.random.default_rng(0)
    for name, (offset, length) in places(copy).items():
        damaged = bytearray(original)
        damaged[offset + int(random.integers(length))] ^= 1 << int(random.integers(8))
        data.write_bytes(damaged)
        with pytest.raises(ParityError):
            verify_onnx(copy, source)
        assert name
    data.write_bytes(original)
    verify_onnx(copy, source)


def test_the_tensor_that_differs_is_named(pair: tuple[Checkpoint, Path], copy: Path) -> None:
    offset, length = places(copy)["model.layers.0.mlp.down_proj.codes"]
    data = bytearray((copy / "model.onnx.data").read_bytes())
    data[offset + length - 1] ^= 1
    (copy / "model.onnx.data").write_bytes(data)
    with pytest.raises(ParityError, match=r"model\.layers\.0\.mlp\.down_proj\.weight"):
        verify_onnx(copy, pair[0])


def test_a_file_cut_short_is_found(pair: tuple[Checkpoint, Path], copy: Path) -> None:
    data = copy / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-16])
    with pytest.raises(ParityError, match="ends before"):
        verify_onnx(copy, pair[0])


def test_a_graph_that_cannot_be_read_is_one_line(pair: tuple[Checkpoint, Path], copy: Path) -> None:
    (copy / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(ParityError, match="cannot be read back"):
        verify_onnx(copy, pair[0])

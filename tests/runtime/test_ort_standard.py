"""Graphs for TensorRT, opened on the CPU: found by path, and refused in one line when something is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from standard_graphs import checkpoint, exported

from edgepress.errors import InputError
from edgepress.runtime.locate import ModelFile, choose_model, open_session
from edgepress.runtime.ort_standard import OrtStandardSession


@pytest.fixture(scope="module")
def whole(llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("standard")
    return exported(checkpoint(llama_dir, out), out)


@pytest.fixture
def graph(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "out" / "tensorrt")


def test_a_run_with_a_graph_opens_in_onnx_runtime(graph: Path) -> None:
    for place in (graph, graph.parent):
        model = choose_model(place)
        assert (model.engine, model.path, model.stands_in) == ("onnxruntime", graph, True)
    with open_session(ModelFile(engine="onnxruntime", path=graph), threads=1) as session:
        assert np.isfinite(session.prefill([1, 2, 3])).all()
        assert session.memory().kv_cache_bytes == 2 * 2 * 2 * 16 * 3 * 2  # layers, sides, heads, size, tokens, bytes


@pytest.mark.parametrize("file", ["tensorrt.json", "model.onnx", "model.onnx.data"])
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_damage_is_one_line(file: str, damage: str, graph: Path) -> None:
    content = (graph / file).read_bytes()
    (graph / file).unlink()
    if damage == "cut":
        (graph / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError) as caught:
        OrtStandardSession(graph)
    assert "\n" not in str(caught.value)
    assert str(graph) in str(caught.value)


def test_another_version_of_the_description_is_refused(graph: Path) -> None:
    path = graph / "tensorrt.json"
    path.write_text(path.read_text().replace('"format_version": 2', '"format_version": 7'))
    with pytest.raises(InputError, match=r"tensorrt\.json: format version 7, this edgepress reads 2; export again"):
        OrtStandardSession(graph)


def test_too_long_contexts_and_texts_are_refused(graph: Path) -> None:
    with pytest.raises(InputError, match="this model takes 1 to 256"):
        OrtStandardSession(graph, context=257)
    with OrtStandardSession(graph, context=8, threads=1) as session, pytest.raises(InputError, match="exceed"):
        session.prefill(list(range(9)))

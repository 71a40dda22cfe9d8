"""From a path to the model in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from exports import export_tiny

from edgepress.artifact.files import tree_bytes
from edgepress.errors import InputError
from edgepress.runtime.locate import ENGINES, Engine, ModelFile, choose_model, find_models, open_session


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_tiny("llama", tmp_path_factory.mktemp("run"), "q8_0")


def test_a_runs_output_has_a_model_for_every_engine_gguf_first(run_dir: Path) -> None:
    found = find_models(run_dir)
    assert [model.engine for model in found] == ["llama.cpp", "onnxruntime", "torch"]
    assert [model.path for model in found] == [
        run_dir / "gguf" / "model.gguf",
        run_dir / "onnx",
        run_dir / "checkpoint",
    ]
    assert choose_model(run_dir) == found[0]


@pytest.mark.parametrize(("engine", "part"), [("llama.cpp", "gguf"), ("onnxruntime", "onnx"), ("torch", "checkpoint")])
def test_each_part_alone_is_a_model(engine: Engine, part: str, run_dir: Path) -> None:
    assert [model.engine for model in find_models(run_dir / part)] == [engine]
    assert choose_model(run_dir, engine) == choose_model(run_dir / part)


def test_a_gguf_file_is_a_model_whatever_lies_beside_it(run_dir: Path) -> None:
    file = run_dir / "gguf" / "model.gguf"
    assert find_models(file) == [ModelFile(engine="llama.cpp", path=file)]


def test_a_models_bytes_are_those_of_its_weights_not_of_its_tokenizer(run_dir: Path) -> None:
    gguf, onnx, torch = find_models(run_dir)
    assert gguf.file_bytes == (run_dir / "gguf" / "model.gguf").stat().st_size
    assert onnx.file_bytes == sum(tree_bytes(run_dir / "onnx" / name) for name in ("model.onnx", "model.onnx.data"))
    shards = (run_dir / "checkpoint").glob("model-*.safetensors")
    assert torch.file_bytes == sum(shard.stat().st_size for shard in shards)


@pytest.mark.parametrize("engine", ENGINES)
def test_each_model_opens_in_its_engine(engine: Engine, run_dir: Path) -> None:
    with open_session(choose_model(run_dir, engine), context=16, threads=1) as session:
        assert session.engine == engine
        assert session.context_limit == 16


def test_an_engine_without_a_model_is_answered_with_those_that_have_one(run_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(run_dir / "gguf", tmp_path / "gguf")
    shutil.copytree(run_dir / "checkpoint", tmp_path / "checkpoint")
    with pytest.raises(InputError, match=r"no model for onnxruntime; there is one for llama\.cpp, torch"):
        choose_model(tmp_path, "onnxruntime")


def test_an_unknown_engine_is_answered_with_the_known_ones(run_dir: Path) -> None:
    with pytest.raises(InputError, match=r"unknown engine 'vllm'; known engines: llama\.cpp, onnxruntime, torch"):
        choose_model(run_dir, "vllm")


def test_a_path_without_a_model_says_what_was_looked_for(llama_dir: Path, tmp_path: Path) -> None:
    for path in (tmp_path, llama_dir, llama_dir / "config.json"):
        with pytest.raises(InputError, match=r"no \.gguf file, ONNX directory .* or checkpoint here"):
            find_models(path)
    with pytest.raises(InputError, match="absent: no such file or directory"):
        find_models(tmp_path / "absent")

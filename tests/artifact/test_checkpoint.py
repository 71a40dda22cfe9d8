"""Checkpoints: the integers that were written, the values they stand for, and what a damaged one is answered with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import store, write_checkpoint
from ggml_oracle import FORMATS, ggml_dequantize, ggml_quantize
from safetensors.numpy import load_file, save_file
from tiny_models import make_model_dir

from edgepress.artifact.activations import write_activations
from edgepress.artifact.checkpoint import Checkpoint, CheckpointWriter, is_checkpoint
from edgepress.artifact.families import is_matrix
from edgepress.artifact.formats import get_format
from edgepress.artifact.quantized import QuantizedTensor
from edgepress.errors import InputError
from edgepress.runtime.locate import find_models

NARROW = tuple(name for name in FORMATS if get_format(name).block < 256)
UP = "model.layers.1.mlp.up_proj.weight"


def mixed(name: str) -> str:
    choices = (*NARROW, "f16", "f32")
    return choices[sum(name.encode()) % len(choices)] if is_matrix(name) else "f32"


@pytest.fixture(scope="module")
def mixed_dir(llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(llama_dir, tmp_path_factory.mktemp("mixed") / "checkpoint", mixed).directory


@pytest.fixture
def damaged(mixed_dir: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(mixed_dir, tmp_path / "checkpoint")


def test_every_tensor_reads_as_ggml_decodes_it(mixed_dir: Path, llama_dir: Path) -> None:
    checkpoint, student = Checkpoint(mixed_dir), load_file(llama_dir / "model.safetensors")
    assert set(checkpoint.names) == set(student)
    for name, weight in student.items():
        assert checkpoint.shape(name) == weight.shape
        assert checkpoint.format(name) == mixed(name)
        if mixed(name) in NARROW:
            wanted = ggml_dequantize(mixed(name), ggml_quantize(mixed(name), weight))
        else:
            wanted = weight.astype(np.float16).astype(np.float32) if mixed(name) == "f16" else weight
        np.testing.assert_array_equal(checkpoint.read(name), wanted, err_msg=name)


def test_transformers_loads_the_values_that_ship(family_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    checkpoint = write_checkpoint(family_dir, tmp_path / "checkpoint", mixed)
    loaded = dict(AutoModelForCausalLM.from_pretrained(checkpoint.directory).named_parameters())
    assert set(loaded) == set(checkpoint.names)
    for name, parameter in loaded.items():
        np.testing.assert_array_equal(parameter.detach().numpy(), checkpoint.read(name), err_msg=name)


@pytest.mark.parametrize("format", FORMATS)
def test_integers_come_back_as_they_were_written(format: str, tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(6, 256)).astype(np.float32)
    tensor = store(weight, format)
    assert isinstance(tensor, QuantizedTensor)
    writer = CheckpointWriter(tmp_path, shards=1)
    writer.write_shard({UP: tensor}, {UP: format})
    writer.finish(json.loads((_config(tmp_path)).read_text(encoding="utf-8")), "one tensor")
    checkpoint = Checkpoint(tmp_path)
    found = checkpoint.quantized(UP)
    assert found is not None
    assert found.format == format
    assert found.parts().keys() == tensor.parts().keys()
    for part, array in tensor.parts().items():
        np.testing.assert_array_equal(found.parts()[part], array)
        assert found.parts()[part].dtype == array.dtype
    np.testing.assert_array_equal(checkpoint.read(UP), tensor.dequantize())


def _config(directory: Path) -> Path:
    return make_model_dir("llama", directory / "model") / "config.json"


def test_floats_have_no_integers(mixed_dir: Path) -> None:
    checkpoint = Checkpoint(mixed_dir)
    floats = [name for name in checkpoint.names if checkpoint.format(name) in ("f16", "f32")]
    assert any(map(is_matrix, floats))
    assert all(checkpoint.quantized(name) is None for name in floats)


def test_the_plan_has_every_tensor_once(mixed_dir: Path) -> None:
    checkpoint = Checkpoint(mixed_dir)
    plan = checkpoint.plan()
    assert plan.name == "Tiny Test"
    assert plan.spec.tied
    assert [tensor.name for tensor in plan.tensors] == list(checkpoint.names)
    assert plan.tokenizer_dir == mixed_dir


def test_activation_scales_are_read_as_written_and_are_part_of_the_digest(mixed_dir: Path, damaged: Path) -> None:
    write_activations(damaged, {UP: 0.25})
    checkpoint = Checkpoint(damaged)
    assert checkpoint.activation_scales == {UP: 0.25}
    assert {tensor.name for tensor in checkpoint.plan().tensors if tensor.input_format == "int8"} == {UP}
    assert checkpoint.digest() != Checkpoint(mixed_dir).digest()
    assert Checkpoint(mixed_dir).activation_scales == {}


def test_the_same_content_elsewhere_has_the_same_digest_and_other_content_another(
    mixed_dir: Path, damaged: Path
) -> None:
    original = Checkpoint(mixed_dir).digest()
    assert Checkpoint(damaged).digest() == original
    config = json.loads((damaged / "config.json").read_text(encoding="utf-8"))
    (damaged / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}), encoding="utf-8")
    assert Checkpoint(damaged).digest() != original


def test_a_plain_model_is_no_checkpoint(llama_dir: Path, mixed_dir: Path) -> None:
    assert is_checkpoint(mixed_dir)
    assert not is_checkpoint(llama_dir)


def test_an_unfinished_checkpoint_is_none(llama_dir: Path, tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, shards=2)
    writer.write_shard({UP: np.ones((2, 32), np.float32)}, {UP: "f32"})
    assert not is_checkpoint(tmp_path)


def _json(file: str, edit: Callable[[Any], object]) -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        document = json.loads((directory / file).read_text(encoding="utf-8"))
        edit(document)
        (directory / file).write_text(json.dumps(document), encoding="utf-8")

    return change


def _text(file: str, text: str) -> Callable[[Path], object]:
    return lambda directory: (directory / file).write_text(text, encoding="utf-8")


def _truncate(pattern: str) -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        for file in directory.glob(pattern):
            file.write_bytes(file.read_bytes()[:-100])

    return change


def _part(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """Change the arrays of all quantized shards."""

    def change(directory: Path) -> None:
        for file in directory.glob("quantized-*.safetensors"):
            arrays = load_file(file)
            edit(arrays)
            save_file(arrays, file)

    return change


def _each(part: str, edit: Callable[[Any], Any]) -> Callable[[Path], object]:
    return _part(
        lambda arrays: arrays.update({name: edit(array) for name, array in arrays.items() if name.endswith(f"|{part}")})
    )


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no list of tensors": (_text("tensors.json", ""), r"tensors\.json: cannot be read as JSON"),
    "a list of another kind": (_text("tensors.json", "[]"), "wanted a JSON object"),
    "an empty list": (_text("tensors.json", "{}"), "damaged checkpoint.*name"),
    "a tensor without a shape": (_json("tensors.json", lambda d: d["tensors"][UP].pop("shape")), "shape"),
    "a shape that is none": (_json("tensors.json", lambda d: d["tensors"][UP].update(shape="big")), "shape|array"),
    "an unknown format": (_json("tensors.json", lambda d: d["tensors"][UP].update(format="q9")), "unknown format 'q9'"),
    "another shape": (_json("tensors.json", lambda d: d["tensors"][UP].update(shape=[64, 64])), "up_proj"),
    "no index": (lambda d: (d / "model.safetensors.index.json").unlink(), "index.json: cannot be read"),
    "a place missing": (
        _json("model.safetensors.index.json", lambda d: d["weight_map"].pop(UP)),
        "no place for .*up_pr",
    ),
    "no configuration": (lambda d: (d / "config.json").unlink(), r"config\.json: cannot be read"),
    "a configuration without sizes": (_text("config.json", '{"model_type": "llama"}'), "vocab_size|hidden_size"),
    "half a configuration": (_json("config.json", lambda d: d.pop("num_hidden_layers")), "num_hidden_layers"),
    "weights cut short": (_truncate("model-*.safetensors"), "cannot be read as safetensors"),
    "integers cut short": (_truncate("quantized-*.safetensors"), "cannot be read as safetensors"),
    "weights missing": (
        lambda d: (d / "model-00002-of-00003.safetensors").unlink(),
        "cannot be read as safetensors|no place",
    ),
    "codes beyond the levels": (_each("codes", lambda a: a + np.uint8(200)), "parts of .* are not those"),
    "codes of another type": (_each("codes", lambda a: a.astype(np.float32)), "parts of .* are not those"),
    "scales of another shape": (_each("scales", lambda a: a[:, :1].copy()), "parts of .* are not those"),
    "activations without a format": (_text("activations.json", '{"scales": {}}'), "damaged checkpoint"),
    "activations without scales": (_text("activations.json", '{"format": "fp8"}'), "damaged checkpoint"),
    "scales of activations that are floats": (
        _text("activations.json", f'{{"format": "float", "scales": {{"{UP}": 1.0}}}}'),
        "damaged checkpoint",
    ),
    "activations that are no JSON": (_text("activations.json", "{"), "damaged checkpoint"),
    "activations of an unknown tensor": (
        _text("activations.json", '{"format": "int8", "scales": {"model.layers.9.mlp.up_proj.weight": 0.5}}'),
        "is no tensor of this model",
    ),
    "an activation scale that is none": (
        _text("activations.json", f'{{"format": "int8", "scales": {{"{UP}": -1.0}}}}'),
        "wanted a positive fp16 value",
    ),
    "no scales": (_part(lambda arrays: [arrays.pop(n) for n in list(arrays) if "|scales" in n]), "parts of"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_one_line(damage: str, damaged: Path) -> None:
    break_it, message = DAMAGES[damage]
    break_it(damaged)
    with pytest.raises(InputError, match=message) as raised:
        _read_everything(damaged)
    assert "\n" not in str(raised.value)


def _read_everything(directory: Path) -> None:
    checkpoint = Checkpoint(directory)
    checkpoint.plan().parameters  # noqa: B018
    for name in checkpoint.names:
        checkpoint.plan().tensors[0].data_bytes  # noqa: B018
        checkpoint.read(name)
        checkpoint.quantized(name)


def test_a_damaged_checkpoint_is_still_found_as_one(damaged: Path) -> None:
    (damaged / "config.json").write_text("{}", encoding="utf-8")
    assert [model.engine for model in find_models(damaged)] == ["torch"]

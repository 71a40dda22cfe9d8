"""Files: predicted to the byte, the same every time, small where they can be, refused before any work."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
from checkpoints import write_checkpoint
from tiny_models import make_model_dir

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import EMBEDDING, is_matrix
from edgepress.artifact.formats import FORMATS
from edgepress.artifact.plan import ModelPlan
from edgepress.errors import InputError
from edgepress.export.onnx.matmulnbits import held_formats
from edgepress.export.onnx.support import check_onnx_support
from edgepress.export.onnx.writer import export_onnx, predict_onnx_bytes


def checkpoint(model: Path, out: Path, format: str = "f32") -> Checkpoint:
    return write_checkpoint(model, out / "checkpoint", lambda name: format if is_matrix(name) else "f32")


def wide_model(out: Path, **options: Any) -> Path:
    """A model whose rows every format divides."""
    return make_model_dir("llama", out / "model", hidden_size=256, intermediate_size=256, **options)


def exported(source: Checkpoint, directory: Path) -> Path:
    directory.mkdir()
    export_onnx(source, directory)
    return directory


def sizes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in directory.iterdir()}


def with_format(plan: ModelPlan, name: str, format: str) -> ModelPlan:
    tensors = tuple(
        msgspec.structs.replace(tensor, format=format) if tensor.name == name else tensor for tensor in plan.tensors
    )
    return msgspec.structs.replace(plan, tensors=tensors)


@pytest.mark.parametrize("format", ["f32", "f16", *held_formats()])
@pytest.mark.parametrize("tied", [True, False])
def test_predicted_bytes_are_the_bytes_on_disk(format: str, tied: bool, tmp_path: Path) -> None:
    source = checkpoint(wide_model(tmp_path, tie_word_embeddings=tied), tmp_path, format)
    assert predict_onnx_bytes(source.plan()) == sizes(exported(source, tmp_path / "onnx"))


def test_predicted_bytes_are_the_bytes_on_disk_in_every_family(family_dir: Path, tmp_path: Path) -> None:
    source = checkpoint(family_dir, tmp_path, "q4_0")
    assert predict_onnx_bytes(source.plan()) == sizes(exported(source, tmp_path / "onnx"))


def test_two_exports_are_the_same_to_the_byte(llama_dir: Path, tmp_path: Path) -> None:
    source = checkpoint(llama_dir, tmp_path, "q4_1")
    first, second = (exported(source, tmp_path / out) for out in ("first", "second"))
    assert sizes(first).keys() == sizes(second).keys()
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


@pytest.mark.parametrize(("format", "bits"), [("f32", 32), ("f16", 16), ("q8_0", 9), ("q4_0", 5), ("q4_1", 6)])
def test_a_weight_takes_its_code_and_a_share_of_float32_scales(format: str, bits: int, tmp_path: Path) -> None:
    source = checkpoint(wide_model(tmp_path), tmp_path, format)
    data = predict_onnx_bytes(source.plan())["model.onnx.data"]
    matrices = sum(tensor.values for tensor in source.plan().tensors if is_matrix(tensor.name)) * bits // 8
    vectors = 4 * sum(tensor.values for tensor in source.plan().tensors if not is_matrix(tensor.name))
    tables = 2 * 4 * source.spec.context * source.spec.head_dim // 2
    padding = 64 * 3 * len(source.names)
    assert 0 <= data - matrices - vectors - tables <= padding


@pytest.mark.parametrize("format", ["f32", "f16", "q8_0", "q4_0", "q5_1"])
def test_a_tied_embedding_is_stored_once(format: str, tmp_path: Path) -> None:
    data = []
    for tied in (True, False):
        out = tmp_path / str(tied)
        source = checkpoint(wide_model(out, tie_word_embeddings=tied), out, format)
        data.append(predict_onnx_bytes(source.plan())["model.onnx.data"])
    rows, columns = source.shape(EMBEDDING)
    assert data[1] - data[0] >= rows * columns * FORMATS[format].bits // 8


def test_memory_does_not_grow_with_depth(tmp_path: Path) -> None:
    peaks = []
    for depth in (2, 10):
        model = make_model_dir("llama", tmp_path / f"{depth}", num_hidden_layers=depth, intermediate_size=1024)
        source = checkpoint(model, tmp_path / f"out{depth}", "q4_0")
        exported(source, tmp_path / f"warm{depth}")
        tracemalloc.start()
        (tmp_path / f"onnx{depth}").mkdir()
        export_onnx(source, tmp_path / f"onnx{depth}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # What grows is the graph: a few hundred kB of records and protobuf, not 8 layers of 200 k weights.
    assert peaks[1] - peaks[0] < 8 * 200_000 / 2


def test_weights_lie_inside_the_data_file_and_on_their_alignment(family_dir: Path, tmp_path: Path) -> None:
    directory = exported(checkpoint(family_dir, tmp_path, "q8_0"), tmp_path / "onnx")
    graph = onnx.load(str(directory / "model.onnx"), load_external_data=False).graph
    size = (directory / "model.onnx.data").stat().st_size
    for tensor in graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if place:
            assert place["location"] == "model.onnx.data"
            assert int(place["offset"]) % 64 == 0
            assert int(place["offset"]) + int(place["length"]) <= size


def test_every_initializer_is_read_by_some_node(family_dir: Path, tmp_path: Path) -> None:
    directory = exported(checkpoint(family_dir, tmp_path, "q8_0"), tmp_path / "onnx")
    graph = onnx.load(str(directory / "model.onnx"), load_external_data=False).graph
    read = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= read


def test_the_configuration_says_what_onnxruntime_genai_needs(family_dir: Path, tmp_path: Path) -> None:
    config = json.loads((family_dir / "config.json").read_text(encoding="utf-8"))
    directory = exported(checkpoint(family_dir, tmp_path), tmp_path / "onnx")
    found = json.loads((directory / "genai_config.json").read_text(encoding="utf-8"))
    assert found["model"]["type"] == config["model_type"]
    assert found["model"]["context_length"] == config["max_position_embeddings"]
    assert found["model"]["eos_token_id"] == 1
    assert found["model"]["decoder"]["num_key_value_heads"] == config["num_key_value_heads"]
    assert found["search"]["past_present_share_buffer"] is True


def test_all_ids_that_end_an_answer_are_kept(llama_dir: Path, tmp_path: Path) -> None:
    source = checkpoint(llama_dir, tmp_path)
    (source.directory / "generation_config.json").write_text('{"eos_token_id": [5, 3], "top_k": 1000000}', "utf-8")
    directory = exported(source, tmp_path / "onnx")
    found = json.loads((directory / "genai_config.json").read_text(encoding="utf-8"))
    # 1 is the tokenizer's own <|im_end|>, which neither configuration names.
    assert found["model"]["eos_token_id"] == [5, 3, 1]
    assert found["search"]["top_k"] == source.spec.vocab


def test_a_format_that_a_width_cannot_hold_is_refused_with_those_that_fit(llama_dir: Path, tmp_path: Path) -> None:
    plan = checkpoint(llama_dir, tmp_path).plan()
    name = "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(InputError, match=r"up_proj\.weight: rows of 64 values .* blocks of 256 \(q4_K\).*q8_0.*q4_0"):
        check_onnx_support(with_format(plan, name, "q4_K"))


def test_a_quantized_vector_is_refused(llama_dir: Path, tmp_path: Path) -> None:
    plan = checkpoint(llama_dir, tmp_path).plan()
    with pytest.raises(InputError, match=r"model\.norm\.weight is stored as floats"):
        check_onnx_support(with_format(plan, "model.norm.weight", "q8_0"))


def test_a_missing_and_an_unknown_tensor_are_refused_by_name(llama_dir: Path, tmp_path: Path) -> None:
    plan = checkpoint(llama_dir, tmp_path).plan()
    lacking = msgspec.structs.replace(plan, tensors=plan.tensors[1:])
    with pytest.raises(InputError, match=f"lacks the tensor {plan.tensors[0].name}"):
        check_onnx_support(lacking)
    odd = msgspec.structs.replace(plan.tensors[0], name="model.layers.0.mlp.router.weight")
    with pytest.raises(InputError, match=r"mlp\.router\.weight is not a tensor of llama models"):
        check_onnx_support(msgspec.structs.replace(plan, tensors=(*plan.tensors, odd)))


def test_an_end_id_outside_the_vocabulary_is_refused(llama_dir: Path, tmp_path: Path) -> None:
    source = checkpoint(llama_dir, tmp_path)
    (source.directory / "generation_config.json").write_text('{"eos_token_id": 99999}', "utf-8")
    with pytest.raises(InputError, match="eos_token_id 99999"):
        check_onnx_support(source.plan())

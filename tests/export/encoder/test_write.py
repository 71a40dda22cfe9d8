"""An exported encoder answers as transformers does, in ONNX Runtime, and becomes an engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from commands import edgepress
from encoders import calibration_for, make_encoder_dir
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from edgepress.errors import InputError
from edgepress.export.encoder.write import EncoderExport, export_encoder

KINDS = ("bert", "vit")


@pytest.fixture(scope="module", params=KINDS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    place = tmp_path_factory.mktemp(request.param)
    student, out = make_encoder_dir(request.param, place / "student"), place / "out"
    out.mkdir()
    export_encoder(student, out, calibration=calibration_for(request.param, place))
    return request.param, student, out


def run(out: Path, feeds: dict[str, Any]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), options, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(["logits"], feeds)[0]
    return found


def torch_logits(student: Path, feeds: dict[str, Any]) -> np.ndarray:
    config = json.loads((student / "config.json").read_text("utf-8"))
    model = getattr(transformers, config["architectures"][0]).from_pretrained(student).eval()
    with torch.no_grad():
        found: np.ndarray = model(**{name: torch.from_numpy(value) for name, value in feeds.items()}).logits.numpy()
    return found


def inputs_of(kind: str, batch: int, seed: int = 5) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    if kind == "vit":
        return {"pixel_values": random.standard_normal((batch, 3, 32, 32)).astype(np.float32)}
    ids = random.integers(5, 300, (batch, 21))
    mask = np.ones_like(ids)
    mask[0, 15:] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


@pytest.mark.parametrize("batch", [1, 3])
def test_it_answers_as_transformers_does_at_any_batch_and_length(exported: tuple[str, Path, Path], batch: int) -> None:
    kind, student, out = exported
    feeds = inputs_of(kind, batch)
    wanted, found = torch_logits(student, feeds), run(out, feeds)
    assert found.dtype == np.float32
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 0.06 * np.abs(wanted).max()


def test_every_linear_of_the_layers_multiplies_int8_by_int8(exported: tuple[str, Path, Path]) -> None:
    _, _, out = exported
    graph = onnx.load(str(out / "model.onnx")).graph
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul" and node.input[1].endswith(".weight")]
    assert len(products) == 12  # query, key, value, output, two of the feed-forward, in two layers
    for node in products:
        given, weight = makers[node.input[0]], makers[node.input[1]]
        assert (given.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        assert makers[given.input[0]].op_type == "QuantizeLinear"
        assert list(constants[given.input[1]].dims) == []  # one scale, which TensorRT tells from one per channel by it
        codes = numpy_helper.to_array(constants[weight.input[0]])
        assert codes.dtype == np.int8
        assert np.abs(codes.astype(int)).max() in range(100, 128)


def test_the_graph_is_strongly_typed_float16_between_float32_ends(exported: tuple[str, Path, Path]) -> None:
    _, _, out = exported
    graph = onnx.load(str(out / "model.onnx")).graph
    onnx.checker.check_model(str(out / "model.onnx"), full_check=True)
    norms = [node for node in graph.node if node.op_type == "LayerNormalization"]
    whole = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    assert norms
    assert whole == {name for node in norms for name in node.input[1:]}
    makers = {name: node for node in graph.node for name in node.output}
    casts = [makers[node.input[0]] for node in norms]
    assert {(cast.op_type, cast.attribute[0].i) for cast in casts} == {("Cast", onnx.TensorProto.FLOAT)}
    assert all(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for value in graph.output)


def test_the_facts_say_what_was_done(exported: tuple[str, Path, Path]) -> None:
    kind, _, out = exported
    facts = json.loads((out / "encoder.json").read_text("utf-8"))
    assert len(facts["quantized"]) == 12
    assert facts["smoothed"]
    assert facts["judged"] >= 4
    assert facts["calibrated"] >= 4 * facts["judged"]
    assert facts["fidelity"]["logits"]["cosine_mean"] > 0.99
    assert ("sequence" in facts["profiles"]["encode"]) == (kind == "bert")


def test_a_loud_channel_of_a_pre_norm_costs_no_operator(exported: tuple[str, Path, Path]) -> None:
    kind, _, out = exported
    extra = [node for node in onnx.load(str(out / "model.onnx")).graph.node if node.name.endswith(".smoothed")]
    if kind == "vit":
        assert not any(node.input[0].startswith("layer_norm") for node in extra)
    else:
        assert any(node.input[0].startswith("layer_norm") for node in extra)


def test_float_weights_need_no_calibration(tmp_path: Path) -> None:
    student, out = make_encoder_dir("roberta", tmp_path / "student"), tmp_path / "out"
    out.mkdir()
    record = export_encoder(student, out, calibration=None, weights="float")
    assert isinstance(record, EncoderExport)
    assert record.inputs == dict.fromkeys(("input_ids", "attention_mask"), ("batch", "sequence"))
    assert record.profiles["encode"]["sequence"][2] == 64
    feeds = inputs_of("bert", 2)
    del feeds["token_type_ids"]
    wanted = torch_logits(student, feeds)
    assert np.abs(run(out, feeds) - wanted).max() < 5e-3 * np.abs(wanted).max()


def test_an_rms_norm_sums_squares_beyond_float16(tmp_path: Path) -> None:
    """By ONNX's own evaluator, which computes in the types that the graph declares, as a strongly typed engine does."""
    student, out = make_encoder_dir("rms", tmp_path / "student"), tmp_path / "out"
    out.mkdir()
    export_encoder(student, out, calibration=None, weights="float")
    feeds = inputs_of("bert", 2)
    del feeds["token_type_ids"]
    feeds["attention_mask"][:] = 1
    model = transformers.Qwen3Model.from_pretrained(student).eval()
    with torch.no_grad():
        wanted = model(**{name: torch.from_numpy(value) for name, value in feeds.items()}).last_hidden_state.numpy()
    found = ReferenceEvaluator(str(out / "model.onnx")).run(["last_hidden_state"], feeds)[0]
    assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()


@pytest.mark.parametrize("weights", ["int8", "float"])
def test_a_model_whose_output_is_a_norm(weights: Literal["int8", "float"], tmp_path: Path) -> None:
    student, out = make_encoder_dir("sentences", tmp_path / "student"), tmp_path / "out"
    out.mkdir()
    export_encoder(student, out, calibration=calibration_for("sentences", tmp_path), weights=weights)
    onnx.checker.check_model(str(out / "model.onnx"), full_check=True)
    feeds = inputs_of("bert", 2)
    model = transformers.BertModel.from_pretrained(student).eval()
    with torch.no_grad():
        wanted = model(**{name: torch.from_numpy(value) for name, value in feeds.items()}).last_hidden_state.numpy()
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    found = session.run(["last_hidden_state"], {item.name: feeds[item.name] for item in session.get_inputs()})[0]
    seen = feeds["attention_mask"].astype(bool)
    assert np.abs(found - wanted)[seen].mean() < (0.05 if weights == "int8" else 2e-3) * np.abs(wanted)[seen].mean()


def test_the_command_writes_a_directory_that_says_how_far_it_moved(tmp_path: Path) -> None:
    student, text = make_encoder_dir("bert", tmp_path / "student"), calibration_for("bert", tmp_path)
    done = edgepress("encoder", student, "--calibration", text, "-o", tmp_path / "out", "--json").json()
    assert done["export"]["fidelity"]["logits"]["cosine_mean"] > 0.99
    assert (tmp_path / "out" / "tensorrt" / "tokenizer.json").is_file()


def test_int8_without_calibration_is_refused(tmp_path: Path) -> None:
    student = make_encoder_dir("bert", tmp_path / "student")
    message = edgepress("encoder", student, "-o", tmp_path / "out").error()
    assert "--calibration" in message
    assert "no such directory" in edgepress("encoder", tmp_path / "none", "-o", tmp_path / "out").error()
    assert not (tmp_path / "out").exists()


def test_too_few_inputs_to_keep_one_as_a_judge_are_refused(tmp_path: Path) -> None:
    student, text = make_encoder_dir("bert", tmp_path / "student"), tmp_path / "lines.txt"
    text.write_text("one\ntwo\nthree\nfour\n", encoding="utf-8")
    message = edgepress("encoder", student, "--calibration", text, "-o", tmp_path / "out").error()
    assert "4 calibration inputs; wanted 5 or more" in message


def test_a_directory_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out" / "tensorrt").mkdir(parents=True)
    (tmp_path / "encoder").mkdir()
    words = ("encoder", tmp_path / "encoder", "--calibration", tmp_path / "x.txt")
    message = edgepress(*words, "-o", tmp_path / "out").error()
    assert "was not written by edgepress" in message


def test_a_language_model_is_sent_to_export(llama_dir: Path, tmp_path: Path) -> None:
    text = calibration_for("bert", tmp_path)
    assert "edgepress export" in edgepress("encoder", llama_dir, "--calibration", text, "-o", tmp_path / "out").error()


def test_a_model_that_wants_more_than_text_is_one_line(tmp_path: Path) -> None:
    text, student = calibration_for("bert", tmp_path), make_encoder_dir("bert", tmp_path / "student")
    config = json.loads((student / "config.json").read_text("utf-8"))
    for architecture, message in (("T5Model", "T5Model"), ("NoSuchModel", "'NoSuchModel' is not one of transformers")):
        (student / "config.json").write_text(json.dumps(config | {"architectures": [architecture]}), encoding="utf-8")
        assert message in edgepress("encoder", student, "--calibration", text, "-o", tmp_path / "out").error()
    (student / "model.safetensors").unlink()
    assert (
        "no *.safetensors here" in edgepress("encoder", student, "--calibration", text, "-o", tmp_path / "out").error()
    )


def test_inputs_of_another_shape_are_refused(tmp_path: Path) -> None:
    student, out = make_encoder_dir("vit", tmp_path / "student"), tmp_path / "out"
    out.mkdir()
    path = tmp_path / "wrong.npz"
    np.savez(path, pixel_values=np.zeros((4, 3, 16, 16), np.float32))
    with pytest.raises(InputError, match=r"pixel_values has shape \(4, 3, 16, 16\), wanted \(samples, 3, 32, 32\)"):
        export_encoder(student, out, calibration=path)
    with pytest.raises(InputError, match="takes images"):
        export_encoder(student, out, calibration=calibration_for("bert", tmp_path))

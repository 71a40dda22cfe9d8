"""The parity gate lets a faithful file pass and stops one that is wrong in its integers or in its logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exports import export_everywhere
from numpy.typing import NDArray
from tiny_models import make_model_dir

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.errors import ParityError
from edgepress.export.gguf.verify import verify_gguf
from edgepress.export.onnx.verify import verify_onnx
from edgepress.export.parity import FLOAT_BOUND, QUANTIZED_BOUND, check_logits, mean_divergence, parity_reference
from edgepress.runtime.locate import ENGINES, Engine, choose_model
from edgepress.runtime.text import TextCodec

gguf = pytest.importorskip("gguf")
onnx = pytest.importorskip("onnx")

Bytes = NDArray[np.uint8]


@pytest.fixture(scope="module")
def floats(llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_everywhere(llama_dir, tmp_path_factory.mktemp("floats"))


@pytest.fixture(scope="module")
def quantized(llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_everywhere(llama_dir, tmp_path_factory.mktemp("quantized"), "q4_0")


def test_the_divergence_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    reference, other = (rng.normal(scale=4, size=(9, 50)).astype(np.float32) for _ in range(2))
    total = 0.0
    for row, another in zip(reference.astype(np.longdouble), other.astype(np.longdouble), strict=True):
        p, q = (np.exp(x - x.max()) / np.exp(x - x.max()).sum() for x in (row, another))
        total += float((p * np.log(p / q)).sum())
    assert mean_divergence(reference, other) == pytest.approx(total / 9, rel=1e-9)
    assert mean_divergence(reference, reference) == 0.0
    assert mean_divergence(reference, reference + 1000) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_faithful_file_passes_by_the_bound_of_its_formats(engine: Engine, floats: Path, quantized: Path) -> None:
    for out, bound in ((floats, FLOAT_BOUND), (quantized, QUANTIZED_BOUND)):
        checkpoint = Checkpoint(out / "checkpoint")
        result = check_logits(choose_model(out, engine), checkpoint, parity_reference(checkpoint))
        assert (result.engine, result.bound) == (engine, bound)
        assert abs(result.kld_mean) < bound / 5
        assert result.tokens > 100


def test_the_text_of_the_gate_is_cut_to_a_short_context(tmp_path: Path) -> None:
    out = export_everywhere(make_model_dir("llama", tmp_path / "m", max_position_embeddings=24), tmp_path / "out")
    checkpoint = Checkpoint(out / "checkpoint")
    reference = parity_reference(checkpoint)
    assert reference.logits.shape == (24, checkpoint.spec.vocab)
    assert check_logits(choose_model(out, "llama.cpp"), checkpoint, reference).tokens == 24


def test_the_text_of_the_gate_has_letters_digits_code_and_other_scripts(floats: Path) -> None:
    reference = parity_reference(Checkpoint(floats / "checkpoint"))
    text = TextCodec(floats / "checkpoint").decode(reference.tokens)
    assert len(set(reference.tokens)) > 50
    assert any(character.isdigit() for character in text)
    assert any(ord(character) > 127 for character in text)


def swap_rows(data: Bytes) -> None:
    data[[0, 1]] = data[[1, 0]]


def change_a_scale(data: Bytes) -> None:
    data[3, 18:20] = np.float16(0.5).reshape(1).view(np.uint8)


def swap_columns(data: Bytes) -> None:
    data[:, [4, 5]] = data[:, [5, 4]]


@pytest.mark.parametrize("damage", [swap_rows, change_a_scale, swap_columns])
def test_a_gguf_file_with_other_integers_is_refused_by_the_tensors_name(
    damage: Callable[[Bytes], None], quantized: Path, tmp_path: Path
) -> None:
    path = rewritten(quantized / "gguf" / "model.gguf", tmp_path, "blk.1.attn_k.weight", damage)
    with pytest.raises(ParityError, match=r"blk\.1\.attn_k\.weight: \d+ of \d+ (codes|scales) differ"):
        verify_gguf(path, Checkpoint(quantized / "checkpoint"))


def test_a_gguf_file_with_another_norm_is_refused(quantized: Path, tmp_path: Path) -> None:
    def change(data: Bytes) -> None:
        data.reshape(-1).view(np.float32)[7] += 0.001

    path = rewritten(quantized / "gguf" / "model.gguf", tmp_path, "output_norm.weight", change)
    with pytest.raises(ParityError, match=r"output_norm\.weight: 1 of 64 values differ"):
        verify_gguf(path, Checkpoint(quantized / "checkpoint"))


def rewritten(source: Path, out: Path, name: str, change: Callable[[Bytes], None]) -> Path:
    """A copy of a GGUF file with the bytes of one tensor changed, found by the gguf package."""
    tensor = next(tensor for tensor in gguf.GGUFReader(source).tensors if tensor.name == name)
    content = np.fromfile(source, np.uint8)
    start = int(tensor.data_offset)
    rows = int(tensor.shape[1]) if len(tensor.shape) > 1 else 1
    change(content[start : start + int(tensor.n_bytes)].reshape(rows, -1))
    path = out / "model.gguf"
    content.tofile(path)
    return path


def test_a_gguf_file_whose_queries_are_not_reordered_is_refused_by_its_logits(floats: Path, tmp_path: Path) -> None:
    """The integers may be in whatever order the writer believes in; the engine has the last word."""
    checkpoint = Checkpoint(floats / "checkpoint")
    weight = checkpoint.read("model.layers.0.self_attn.q_proj.weight")

    def as_hugging_face(data: Bytes) -> None:
        data[:] = weight.view(np.uint8).reshape(data.shape)

    path = rewritten(floats / "gguf" / "model.gguf", tmp_path, "blk.0.attn_q.weight", as_hugging_face)
    with pytest.raises(ParityError, match=r"logits in llama\.cpp differ .* mean KL divergence .* bound 0\.0001"):
        check_logits(choose_model(path), checkpoint, parity_reference(checkpoint))


def _attribute(name: str, value: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == name:
                    attribute.CopyFrom(onnx.helper.make_attribute(name, value))

    return change


WRONG_GRAPHS = {
    "pairs rotated as neighbours": _attribute("rotary_interleaved", 1),
    "no rotation": _attribute("do_rotary", 0),
    "another epsilon": _attribute("epsilon", 0.5),
    "another attention scale": _attribute("scale", 0.01),
    "a window": _attribute("local_window_size", 4),
}


@pytest.mark.parametrize("wrong", WRONG_GRAPHS)
def test_an_onnx_graph_that_computes_something_else_is_refused_by_its_logits(
    wrong: str, floats: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "onnx"
    directory.mkdir()
    for file in (floats / "onnx").iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    model = onnx.load(str(directory / "model.onnx"), load_external_data=False)
    before = model.SerializeToString()
    WRONG_GRAPHS[wrong](model)
    assert model.SerializeToString() != before
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    checkpoint = Checkpoint(floats / "checkpoint")
    verify_onnx(directory, checkpoint)  # every number is in its place
    with pytest.raises(ParityError, match=r"logits in onnxruntime differ from the reference"):
        check_logits(choose_model(directory), checkpoint, parity_reference(checkpoint))


def test_logits_that_are_no_numbers_are_refused(floats: Path) -> None:
    checkpoint = Checkpoint(floats / "checkpoint")
    reference = parity_reference(checkpoint)
    reference.logits[3, 3] = np.nan
    with pytest.raises(ParityError, match="mean KL divergence nan"):
        check_logits(choose_model(floats, "torch"), checkpoint, reference)

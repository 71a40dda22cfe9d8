"""llama.cpp's quantizer through its library: the bytes are ggml's, and what fails says why."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from checkpoints import write_checkpoint
from ggml_oracle import ggml_quantize
from numpy.typing import NDArray
from small_disk import run_on_small_disk
from tiny_models import make_model_dir

from edgepress.artifact.gguf_header import read_gguf_header
from edgepress.errors import EdgepressError
from edgepress.export.gguf import export_gguf
from edgepress.runtime.llamacpp_quantize import MIXTURES, Mixture, quantize_file

pytest.importorskip("llama_cpp")
gguf = pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 file whose widths all types divide, with layers enough for llama.cpp to favour the first."""
    return _plain(tmp_path_factory.mktemp("plain"), layers=8)


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with two layers: some types are searched for slowly."""
    return _plain(tmp_path_factory.mktemp("shallow"), layers=2)


def _plain(root: Path, layers: int) -> Path:
    model = make_model_dir("llama", root / "model", hidden_size=256, intermediate_size=256, num_hidden_layers=layers)
    export_gguf(write_checkpoint(model, root / "checkpoint", lambda _: "f32"), root / "plain.gguf")
    return root / "plain.gguf"


def matrices(path: Path) -> dict[str, tuple[str, NDArray[np.generic]]]:
    """Type and stored data of every matrix."""
    tensors = gguf.GGUFReader(str(path)).tensors
    return {tensor.name: (tensor.tensor_type.name, tensor.data) for tensor in tensors if len(tensor.shape) > 1}


def layer_importance(plain: Path) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    names = [name for name in matrices(plain) if name.startswith("blk.")]
    return {name: rng.lognormal(0, 2, 256).astype(np.float32) for name in names}


@pytest.mark.parametrize("mixture", MIXTURES)
def test_every_mixture_can_be_made_with_and_without_an_importance_matrix(
    mixture: Mixture, shallow: Path, tmp_path: Path
) -> None:
    for importance in ({}, layer_importance(shallow)):
        quantize_file(shallow, tmp_path / "out.gguf", mixture, importance)
        header = read_gguf_header(tmp_path / "out.gguf")
        types = Counter(tensor.type for tensor in header.tensors if len(tensor.shape) > 1)
        body = "IQ3_S" if mixture == "IQ3_M" else mixture
        assert types.most_common(1)[0][0] == re.sub(r"(?<=K)_[SML]$", "", body)
        assert header.metadata["general.file_type"] > 1


def test_the_bytes_are_those_of_ggml_for_the_importance_of_each_matrix(plain: Path, tmp_path: Path) -> None:
    importance = layer_importance(plain)
    quantize_file(plain, tmp_path / "out.gguf", "Q4_0", importance)
    weights, made = matrices(plain), matrices(tmp_path / "out.gguf")
    # Two that llama.cpp's rule gives more: the embedding, which is also the head, and the first feed-forward.
    assert {name: kind for name, (kind, _) in made.items() if kind != "Q4_0"} == {
        "token_embd.weight": "Q6_K",
        "blk.0.ffn_down.weight": "Q4_1",
    }
    for name, (kind, data) in made.items():
        weight = np.asarray(weights[name][1], np.float32)
        expected = ggml_quantize(kind.lower().replace("_k", "_K"), weight, importance.get(name))
        assert np.array_equal(data, expected), name


def test_what_llama_cpp_does_not_accept_is_one_line_with_its_reason(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "damaged.gguf").write_bytes(plain.read_bytes()[:-100])
    with pytest.raises(
        EdgepressError, match=r"llama\.cpp: quantizing to Q4_0 failed \(.*not within the file bounds"
    ) as e:
        quantize_file(tmp_path / "damaged.gguf", tmp_path / "out.gguf", "Q4_0", {})
    assert "\n" not in str(e.value)


def test_an_importance_of_another_width_is_refused_by_llama_cpp(plain: Path, tmp_path: Path) -> None:
    wrong = {"blk.0.attn_q.weight": np.ones(32, np.float32)}
    with pytest.raises(EdgepressError, match="imatrix size 32 is different from tensor size 256"):
        quantize_file(plain, tmp_path / "out.gguf", "Q4_0", wrong)


_ON_FULL_DISK = """
import sys
from pathlib import Path
from edgepress.runtime.llamacpp_quantize import quantize_file
try:
    quantize_file(Path(sys.argv[2]), Path(sys.argv[1]) / "out.gguf", "Q4_0", {})
except OSError as error:
    print(error.strerror)
"""


def test_a_full_disk_is_called_so(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    done = run_on_small_disk(_ON_FULL_DISK, tmp_path / "disk", 400, str(plain))
    assert (done.returncode, done.stdout.strip()) == (0, "No space left on device"), done.stderr

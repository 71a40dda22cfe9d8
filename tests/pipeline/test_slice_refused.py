"""What ``edgepress slice`` cannot cut is refused in one line, and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import edgepress
from one_core import one_core  # noqa: F401
from own_cache import own_cache  # noqa: F401
from safetensors.numpy import load_file, save_file
from slice_scene import in_the_scene, make_scene  # noqa: F401
from sliceable import make_model, write

pytestmark = pytest.mark.usefixtures("one_core", "own_cache")
SLICE = ["slice", "bert", "--select", "uniform", "-o", "out", "--start"]
VIT = ["slice", "vit", "-o", "out", "--start", "width=0.5"]
# What is asked for → what the refusal says.
WRONG: dict[str, tuple[list[str], str]] = {
    "wider": ([*SLICE, '{"hidden_size": 128, "num_attention_heads": 4}'], "hidden_size 128 is more than the larger"),
    "deeper": ([*SLICE, '{"num_hidden_layers": 4}'], "num_hidden_layers 4 is more than the larger model's 3"),
    "more heads": ([*SLICE, '{"num_attention_heads": 8}'], "num_attention_heads 8 is more than the larger model's 4"),
    "more neurons": ([*SLICE, '{"intermediate_size": 49}'], "intermediate_size 49 is more than the larger model's 48"),
    "fractions of heads": ([*SLICE, '{"hidden_size": 30}'], "num_attention_heads 4 does not divide hidden_size 30"),
    "wider heads": ([*SLICE, '{"num_attention_heads": 2}'], "have 32 dimensions each, the larger model's have 16"),
    "another vocabulary": ([*SLICE, '{"vocab_size": 99}'], "'vocab_size' is not a size (99 here, 320 in the larger"),
    "nothing": ([*SLICE, '{"hidden_size": 0}'], "hidden_size must be a positive integer, got 0"),
    "a truth": ([*SLICE, '{"num_hidden_layers": true}'], "num_hidden_layers must be a positive integer, got True"),
    "no JSON": ([*SLICE, "{"], "wanted a JSON object of sizes"),
    "a share twice": ([*SLICE, "width=0.5,depth=0.5,width=0.5"], "names a share twice; give each once"),
    "shares and sizes": ([*SLICE, '{"width": 0.5, "hidden_size": 32}'], "wanted width and depth"),
    "too large a share": (["slice", "bert", "--start", "width=2", "-o", "out"], "wanted width and depth, each above 0"),
    "no such file": (["slice", "bert", "--start", "absent.json", "-o", "out"], "absent.json: cannot be read; wanted"),
    "importance of nothing": (["slice", "bert", "--start", "width=0.5", "-o", "out"], "measured on text: give --text"),
    "importance of no pictures": (VIT, "give --images, an .npy of floats (n, channels, height, width)"),
    "text for pictures": ([*VIT, "--text", "text.txt"], "--text: vit takes pictures; give --images"),
    "pictures for text": (
        ["slice", "bert", "--start", "width=0.5", "-o", "out", "--images", "pictures.npy"],
        "--images: bert takes text; give --text",
    ),
    "pictures for a decoder": (
        ["slice", "llama", "--start", "width=0.5", "-o", "out", "--images", "pictures.npy"],
        "--images: llama takes text; give --text",
    ),
    "a text as pictures": ([*VIT, "--images", "text.txt"], "text.txt: cannot be read as an .npy of numbers"),
    "no such pictures": ([*VIT, "--images", "absent.npy"], "absent.npy: cannot be read"),
    "no such text": (
        ["slice", "bert", "--start", "width=0.5", "-o", "out", "--text", "no.txt"],
        "no.txt: no such file",
    ),
    "unknown way": (
        ["slice", "bert", "--start", "width=0.5", "-o", "out", "--select", "best"],
        "known: importance, unif",
    ),
    "unknown layers": (["slice", "bert", "--start", "width=0.5", "-o", "out", "--layers", "last"], "--layers 'last'"),
    "no model": (["slice", "./absent", "--start", "width=0.5", "-o", "out", "--select", "uniform"], "absent: no such"),
    "onto the model": (
        ["slice", "bert", "--start", "width=0.5", "-o", "bert", "--select", "uniform"],
        "the model itself",
    ),
    "onto another's": (
        ["slice", "bert", "--start", "width=0.5", "-o", "vit", "--select", "uniform"],
        "no earlier slice",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_cut_is_refused_in_one_line(scene: Path, tmp_path: Path, case: str) -> None:
    arguments, message = WRONG[case]
    if arguments[-1].startswith("{"):
        (tmp_path / "sizes.json").write_text(arguments[-1], encoding="utf-8")
        arguments = [*arguments[:-1], str(tmp_path / "sizes.json")]
    assert message in edgepress(*arguments).error()
    assert not (scene / "out").exists()
    assert not list(scene.glob(".*"))


def pickled(source: Path) -> None:
    (source / "model.safetensors").rename(source / "pytorch_model.bin")


def changed(source: Path, change: Any) -> None:
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})


def configured(source: Path, **fields: Any) -> None:
    config = json.loads((source / "config.json").read_text("utf-8"))
    (source / "config.json").write_text(json.dumps(config | fields), encoding="utf-8")


DAMAGE: dict[str, tuple[Any, str]] = {
    "pickle": (pickled, "no *.safetensors here; other weight files can run code"),
    "cut off": (lambda p: (p / "model.safetensors").write_bytes(b"\x10"), "damaged or truncated safetensors file"),
    "a tensor is missing": (
        lambda p: changed(p, lambda tensors: tensors.pop("encoder.layer.1.output.dense.bias")),
        "the file has no encoder.layer.1.output.dense.bias",
    ),
    "a tensor too many": (
        lambda p: changed(p, lambda tensors: tensors.update(extra=np.zeros(3, np.float32))),
        "the file has 'extra', for which BertModel has no place",
    ),
    "NaN": (
        lambda p: changed(p, lambda tensors: tensors["pooler.dense.bias"].fill(np.nan)),
        "pooler.dense.bias has values that are NaN",
    ),
    "another shape": (lambda p: configured(p, intermediate_size=50), "cannot be loaded as BertModel"),
    "an unknown head": (
        lambda p: configured(p, architectures=["BertForMaskedLM"]),
        "'BertForMaskedLM' is a bert model",
    ),
    "a decoder": (lambda p: configured(p, is_decoder=True), "is_decoder is set"),
    "quantized": (lambda p: configured(p, quantization_config={"bits": 4}), "quantization_config is set"),
    "absurd depth": (lambda p: configured(p, num_hidden_layers=10**6), "1000000 layers of 64 channels"),
    "absurd width": (lambda p: configured(p, hidden_size=2**40), "1099511627776 channels"),
    "a width of text": (lambda p: configured(p, hidden_size="64"), "hidden_size must be a positive integer, got '64'"),
    "no JSON": (lambda p: (p / "config.json").write_text("{"), "config.json: not valid JSON"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_encoder_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    change, message = DAMAGE[case]
    change(write(make_model("BertModel"), tmp_path / "source"))
    done = edgepress(
        "slice", tmp_path / "source", "--start", "width=0.5", "--select", "uniform", "-o", tmp_path / "out"
    )
    assert message in done.error()
    assert not (tmp_path / "out").exists()

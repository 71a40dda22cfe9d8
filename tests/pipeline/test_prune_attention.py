"""Layers that lost their attention go through every solver and into every target, and the engines agree on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pressing import PLAIN, architecture, press
from pressing import pruning_recipe as recipe
from tiny_models import make_model_dir

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.compress.prune.config import PruneFfn, PruneHeads, PruneHidden, PruneLayers, PruneStep, Sparsify
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.errors import InputError
from edgepress.recipe import ExportTarget
from edgepress.runtime.locate import Engine, ModelFile, open_session
from edgepress.runtime.torch_reference import TorchSession

DROP = PruneLayers(drop=2, part="attention")
# The last is what a key or a value takes for all tokens, bytes: 96 of context, which llama.cpp rounds up to 256.
PLACES: tuple[tuple[Engine, str, int], ...] = (
    ("llama.cpp", "gguf/model.gguf", 2 * 256),
    ("onnxruntime", "onnx", 4 * 96),
    ("onnxruntime", "tensorrt", 2 * 42),
)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_dir("llama", tmp_path_factory.mktemp("attention") / "student", num_hidden_layers=4)


def test_every_engine_reads_and_goes_on_like_torch(student: Path, tmp_path: Path) -> None:
    """Keys and values are counted by the layers that have them, prompts and single tokens alike."""
    manifest = press(student, tmp_path, recipe(DROP), ("gguf", "onnx", "tensorrt"))
    assert (
        "4 of 4 layers, feed-forward 128 wide, 4/2 heads (query/key-value) in 2 of them"
        in (manifest.lineage.student_notes[-1])
    )
    assert architecture(tmp_path) == "deci"
    checkpoint, tokens = Checkpoint(tmp_path / "checkpoint"), list(range(20, 60))
    assert sorted(layer.heads for layer in checkpoint.spec.layers) == [0, 0, 4, 4]
    reference = TorchSession(checkpoint)
    wanted = [*reference.prefill(tokens), reference.decode(7), reference.decode(9)]
    layers, kv_heads, head_dim = 2, 2, checkpoint.spec.head_dim
    for engine, place, cells in PLACES:
        with open_session(ModelFile(engine=engine, path=tmp_path / place), context=96, threads=1) as session:
            found = [*session.prefill(tokens), session.decode(7), session.decode(9)]
            np.testing.assert_allclose(found, wanted, atol=0.01 * np.abs(wanted).max(), err_msg=place)
            assert session.memory().kv_cache_bytes == layers * 2 * kv_heads * head_dim * cells, place


@pytest.mark.parametrize(
    ("steps", "fields", "targets"),
    [
        ((), {"solver": "gptaq", "format": "q4_0", "embedding": "q8_0"}, ("gguf", "onnx")),
        ((), {"solver": "gptaq", "target_bpw": 6.0}, ("gguf",)),
        (
            (),
            {
                "solver": "scale_search",
                "format": "q4_0",
                "embedding": "q8_0",
                "prepare": ("fold_norms", "scale_up_down", "scale_v_o", "rotate_v_o", "awq"),
            },
            ("gguf",),
        ),
        (
            (),
            {
                "solver": "nearest",
                "format": "int8",
                "embedding": "q8_0",
                "fallback": "f16",
                "activations": "int8",
                "smooth": 0.5,
                "clip": "mse",
            },
            ("onnx",),
        ),
        ((PruneFfn(keep=0.5),), {"solver": "nearest", "format": "q8_0"}, ("gguf",)),
        ((Sparsify(),), {"solver": "nearest", "format": "int8", "embedding": "f16"}, ("tensorrt",)),
    ],
)
def test_what_comes_behind_takes_layers_without_attention(
    student: Path,
    tmp_path: Path,
    steps: tuple[PruneStep, ...],
    fields: dict[str, Any],
    targets: tuple[ExportTarget, ...],
) -> None:
    """The parity gates compare each file with what was to go into it; that preparing keeps the function is another test
    (``tests/compress/prune/test_attention.py``).
    """
    press(student, tmp_path, recipe(DROP, *steps, quantize=QuantizeStep(**fields), export=targets), targets)
    found = Checkpoint(tmp_path / "checkpoint")
    assert any(layer.heads == 0 for layer in found.spec.layers)
    assert all((tmp_path / target).is_dir() for target in targets)


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_families_without_such_layers_in_llama_cpp_take_the_other_targets(family: str, tmp_path: Path) -> None:
    source, out = make_model_dir(family, tmp_path / "student"), tmp_path / "out"
    step = PruneLayers(drop=1, part="attention")
    with pytest.raises(InputError, match=r"some layers have no attention, which llama\.cpp has for llama models only"):
        press(source, out, recipe(step), ("gguf",))
    assert not (out / "pruned-1").exists()
    press(source, out, recipe(step, export=("onnx", "tensorrt")), ("onnx", "tensorrt"))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((PruneLayers(drop=4, part="attention"),), "the first has to keep its own, so at most 3"),
        ((DROP, PruneLayers(drop=2, part="attention")), "2 layers have attention .* so at most 1"),
        ((DROP, PruneLayers(drop=1)), "prune_layers: some layers have no attention; put the step in front"),
        ((DROP, PruneHeads(keep=0.5)), "prune_heads: some layers have no attention; put the step in front"),
        ((DROP, PruneHidden(keep=0.5)), "prune_hidden: some layers have no attention; put the step in front"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    student: Path, tmp_path: Path, steps: tuple[PruneStep, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        press(student, tmp_path / "out", recipe(*steps, quantize=PLAIN))
    assert not (tmp_path / "out" / "pruned-1").exists()

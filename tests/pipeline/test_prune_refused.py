"""What pruning cannot do, or an export cannot hold, is refused before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pressing import press
from pressing import pruning_recipe as recipe
from tiny_models import make_model_dir

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.compress.prune.config import PruneFfn, PruneLayers
from edgepress.compress.student.open import open_student
from edgepress.errors import InputError
from edgepress.pipeline.check_pruning import check_pruning
from edgepress.pipeline.prune import plan_before
from edgepress.recipe import parse_recipe


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {"num_hidden_layers": 3, "intermediate_size": 256}
    return make_model_dir("llama", tmp_path_factory.mktemp("prune") / "student", **options)


def test_layers_whose_places_llama_cpp_takes_for_granted_are_dropped_for_onnx_alone(tmp_path: Path) -> None:
    source, out = make_model_dir("gemma3", tmp_path / "student"), tmp_path / "out"
    with pytest.raises(InputError, match=r"prune_layers: some layers of gemma3.*Leave gguf out of export"):
        press(source, out, recipe(PruneLayers(drop=1)), ("gguf", "onnx"))
    assert not out.exists()
    press(source, out, recipe(PruneLayers(drop=1), export=("onnx",)), ("onnx",))


@pytest.mark.parametrize(
    ("family", "sizes", "step"),
    [
        ("gemma3", {}, PruneLayers(drop=0)),
        ("gemma3", {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}, PruneLayers(drop=1)),
        ("qwen3", {"num_hidden_layers": 3}, PruneLayers(drop=1)),
    ],
)
def test_where_no_layer_changes_its_attention_gguf_is_not_refused_for_that(
    family: str, sizes: dict[str, Any], step: PruneLayers, tmp_path: Path
) -> None:
    source = open_student(str(make_model_dir(family, tmp_path / "student", **sizes)))
    check_pruning(source, recipe(step), ("gguf", "onnx"))


def test_a_family_without_per_layer_files_is_pruned_evenly_or_refused_by_name(tmp_path: Path) -> None:
    source, out = make_model_dir("qwen2", tmp_path / "student"), tmp_path / "out"
    with pytest.raises(InputError, match=r"for llama models only.*targets that hold it: onnx"):
        press(source, out, recipe(PruneFfn(keep=0.5, widths="per_layer")))
    press(source, out, recipe(PruneFfn(keep=0.5)))
    spec = Checkpoint(out / "checkpoint").spec
    assert spec.uniform and spec.layers[0].ffn == 64


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("[{step: quantize}, {step: prune_ffn, keep: 0.5}]", "prune_ffn comes after quantize"),
        ("[{step: quantize}, {step: quantize}]", "2 quantize steps"),
        ("[{step: prune_ffn, kep: 0.5}]", "fields there: keep, method, repair, reconstruct, widths, multiple_of"),
        ("[{step: prune_heads, keep: 0.5, unit: pairs}]", "none of the choices: groups, heads"),
        ("[{step: prune_ffn, keep: 1.5}]", "compress"),
    ],
)
def test_mistakes_in_steps_are_named(steps: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_recipe(f"compress: {steps}", "r.yaml")


def test_what_leaves_nothing_or_does_not_divide_is_refused_before_any_work(student: Path, tmp_path: Path) -> None:
    for step, message in (
        (PruneLayers(drop=3), "one has to stay"),
        (PruneFfn(keep=0.5, multiple_of=100), "does not divide the width 256"),
        (PruneFfn(keep=0.01), "leaves nothing"),
    ):
        with pytest.raises(InputError, match=message):
            press(student, tmp_path / "out", recipe(step))
        with pytest.raises(InputError, match=message):
            plan_before(open_student(str(student)), recipe(step), ("gguf",))
    assert not (tmp_path / "out" / "checkpoint").exists()
    assert open_student(str(student)).spec.depth == 3


def test_steps_that_together_drop_every_layer_are_refused_before_any_work(student: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="drop 2 of 2 layers; one has to stay"):
        plan_before(open_student(str(student)), recipe(PruneLayers(drop=1), PruneLayers(drop=2)), ())

"""Narrower models go through the pipeline, and transformers loads what has heads that do not divide the width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pressing import architecture, press
from pressing import pruning_recipe as recipe
from tiny_models import make_model_dir
from transformers import AutoModelForCausalLM

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.compress.prune.config import PruneFfn, PruneHeads, PruneHidden, PruneLayers, Sparsify
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.student.open import open_student
from edgepress.errors import InputError
from edgepress.pipeline.prune import plan_before
from edgepress.recipe import parse_recipe
from edgepress.runtime.torch_reference import load_model

HALF = PruneHidden(keep=0.5, multiple_of=32)


def reloaded(directory: Path) -> None:
    """transformers loads it, every tensor in its place."""
    _, told = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not any(told[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_a_narrower_model_loads_in_both_engines(family: str, tmp_path: Path) -> None:
    """The parity gates compare both files with torch; they would not be kept otherwise."""
    source, out = make_model_dir(family, tmp_path / "student"), tmp_path / "out"
    manifest = press(source, out, recipe(HALF, quantize=QuantizeStep(solver="nearest", format="q4_0")))
    assert "hidden width 32 of 64" in manifest.lineage.student_notes[-1]
    spec = Checkpoint(out / "checkpoint").spec
    assert spec.hidden == 32 and spec.head_dim == open_student(str(source)).spec.head_dim
    assert (out / "onnx" / "model.onnx").is_file() and (out / "gguf" / "model.gguf").is_file()
    reloaded(out / "pruned-1")


def test_it_goes_with_the_other_steps(tmp_path: Path) -> None:
    source, out = make_model_dir("llama", tmp_path / "student", num_hidden_layers=3), tmp_path / "out"
    steps = (PruneHidden(keep=0.66, multiple_of=2), PruneLayers(drop=1), PruneFfn(keep=0.5), PruneHeads(keep=0.5))
    press(source, out, recipe(*steps))
    spec = Checkpoint(out / "checkpoint").spec
    assert (spec.hidden, spec.depth, spec.layers[0].heads) == (42, 2, 2)
    assert architecture(out) in ("llama", "deci")


def test_heads_that_do_not_divide_the_width_any_more_still_load(tmp_path: Path) -> None:
    source = make_model_dir("llama", tmp_path / "student", num_key_value_heads=1)
    press(source, tmp_path / "out", recipe(PruneHeads(keep=0.75, widths="uniform")))
    assert Checkpoint(tmp_path / "out" / "checkpoint").spec.layers[0].heads == 3
    # Where the target holds a bias, only edgepress's loader takes it; without one, transformers does.
    load_model(Checkpoint(tmp_path / "out" / "pruned-1"))
    press(source, tmp_path / "plain", recipe(PruneHeads(keep=0.75, widths="uniform", repair=False)))
    reloaded(tmp_path / "plain" / "pruned-1")


def test_models_whose_class_has_no_biases_get_none(tmp_path: Path) -> None:
    options: dict[str, Any] = {"model_type": "mistral", "sliding_window": None, "head_dim": 16}
    source = make_model_dir("llama", tmp_path / "student", **options)
    press(source, tmp_path / "out", recipe(PruneFfn(keep=0.5, widths="uniform")))
    reloaded(tmp_path / "out" / "pruned-1")


@pytest.mark.parametrize(
    ("family", "step", "format", "message"),
    [
        (
            "qwen2",
            HALF,
            "f16",
            r"with the shape that pruning leaves \(32 channels\): .*4 heads of 16 are not",
        ),
        (
            "qwen2",
            PruneHeads(keep=0.5),
            "f16",
            r"with the shape that pruning leaves \(2/2 heads\): .*2 heads of 16 are not",
        ),
        (
            "llama",
            PruneHidden(keep=0.6, multiple_of=2),
            "q4_0",
            r"with the shape that pruning leaves \(38 channels\): .*q8_0's block of 32",
        ),
    ],
)
def test_a_shape_that_an_export_or_a_format_cannot_hold_is_refused_before_any_work(
    family: str, step: PruneHidden | PruneHeads, format: str, message: str, tmp_path: Path
) -> None:
    source = make_model_dir(family, tmp_path / "student")
    asked = recipe(step, quantize=QuantizeStep(solver="nearest", format=format, embedding="q8_0"))
    with pytest.raises(InputError, match=message):
        plan_before(open_student(str(source)), asked, ("gguf",))
    with pytest.raises(InputError, match=message):
        press(source, tmp_path / "out", asked)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_tells_the_sizes_behind_pruning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To the byte where all layers lose alike and nothing is solved."""
    source = make_model_dir("llama", tmp_path / "student", num_hidden_layers=3)
    steps = (
        PruneHidden(keep=0.5, multiple_of=32, repair=False),
        PruneFfn(keep=0.5, widths="uniform", repair=False),
        PruneHeads(keep=0.5, widths="uniform", repair=False),
        PruneLayers(drop=1, repair=False),
    )
    asked = recipe(*steps, quantize=QuantizeStep(solver="nearest", format="q4_0"))
    student = open_student(str(source))
    plan = plan_before(student, asked, ("gguf",))
    said = capsys.readouterr().err
    parameters = f"{student.parameters / 1e6:.1f} M → {plan.model.parameters / 1e6:.1f} M parameters"
    assert parameters in said and plan.peak_memory_bytes >= plan_before(student, recipe(), ("gguf",)).peak_memory_bytes
    press(source, tmp_path / "out", asked)
    assert plan.files == {"gguf/model.gguf": (tmp_path / "out" / "gguf" / "model.gguf").stat().st_size}
    assert plan.model.spec == Checkpoint(tmp_path / "out" / "checkpoint").spec


def test_what_transformers_will_not_load_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = PruneHidden(keep=0.66, multiple_of=2)
    press(make_model_dir("llama", tmp_path / "llama"), tmp_path / "a", recipe(odd))
    assert "config.json says mistral now, which computes the same" in capsys.readouterr().err
    press(make_model_dir("gemma3", tmp_path / "gemma3"), tmp_path / "b", recipe(odd))
    assert "transformers takes no gemma3_text model whose width (42)" in capsys.readouterr().err


def test_what_leaves_no_channel_or_breaks_the_pattern_is_refused_before_any_work(tmp_path: Path) -> None:
    student = open_student(str(make_model_dir("llama", tmp_path / "student")))
    for steps, message in (
        ((PruneHidden(keep=0.2),), "of 64 channels leaves none of them"),
        ((HALF, PruneHidden(keep=0.4, multiple_of=32)), "of 32 channels leaves none of them"),
        ((PruneHidden(keep=0.6, multiple_of=6), Sparsify()), "multiple_of 6 in front of sparsify"),
    ):
        with pytest.raises(InputError, match=message):
            plan_before(student, recipe(*steps), ("gguf",))


def test_its_fields_are_named_where_one_is_misspelt() -> None:
    with pytest.raises(InputError, match="fields there: keep, repair, multiple_of"):
        parse_recipe("compress: [{step: prune_hidden, kep: 0.5}]", "r.yaml")

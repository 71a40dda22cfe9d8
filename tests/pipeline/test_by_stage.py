"""What each step before quantize lost, against models built by hand and compared in float64."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from pressing import RECIPE
from tiny_models import CORPUS, make_model_dir
from torch import nn
from transformers import AutoModelForCausalLM

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.benchmarks.shape_record import ShapeRecord
from edgepress.compress.distill.config import DistillStep
from edgepress.compress.prune.config import PruneFfn, PruneHeads, PruneLayers, TrimVocabulary
from edgepress.compress.prune.removed import read_removed
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.student.open import open_student
from edgepress.pipeline.by_tensor import some_windows
from edgepress.pipeline.measure import evaluation_text
from edgepress.pipeline.whole import run_whole
from edgepress.recipe import CompressStep, Evaluate, Recipe
from edgepress.runtime.torch_reference import load_model

PLAIN = QuantizeStep(solver="nearest", format="f16", fallback="f16")
STEPS: tuple[CompressStep, ...] = (PruneLayers(drop=1), PruneFfn(keep=0.5), DistillStep(tokens=32))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {"num_hidden_layers": 3, "intermediate_size": 256}
    return make_model_dir("llama", tmp_path_factory.mktemp("stages") / "student", **options)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text("".join(f"{CORPUS}{number} times\n" for number in range(3)), encoding="utf-8")
    evaluate = Evaluate(files=(str(text),), tokens=64, context=32, tensors=False)
    fields: dict[str, Any] = {"compress": (*STEPS, PLAIN), "export": ("gguf",), "evaluate": evaluate, "baseline": False}
    return msgspec.structs.replace(RECIPE, **fields)


@pytest.fixture(scope="module")
def out(student: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "out"
    run_whole(open_student(str(student)), recipe, out)
    return out


def record(out: Path) -> ShapeRecord:
    return msgspec.json.decode((out / "measurements" / "shape.json").read_bytes(), type=ShapeRecord)


def test_divergences_behind_each_step_and_of_the_removal_alone(student: Path, recipe: Recipe, out: Path) -> None:
    assert recipe.evaluate is not None
    windows = some_windows(evaluation_text(open_student(str(student)), recipe.evaluate))
    whole = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float64).eval()

    def divergence(model: nn.Module) -> float:
        ids = torch.from_numpy(windows.astype(np.int64))
        with torch.inference_mode():
            p, q = (each.double()(ids).logits.log_softmax(-1) for each in (whole, model))
        return float((p.exp() * (p - q)).sum(-1).mean())

    found = record(out)
    first, second, third = found.stages
    (gone,) = set(range(3)) - set(found.places)
    without = copy.deepcopy(whole)
    without.model.layers = nn.ModuleList(layer for index, layer in enumerate(whole.model.layers) if index != gone)
    for place, layer in enumerate(without.model.layers):
        layer.self_attn.layer_idx = place
    without.config.num_hidden_layers = 2
    repaired = load_model(Checkpoint(out / "pruned-1"))
    assert first.removed_kld == pytest.approx(divergence(without), rel=1e-4)
    assert first.kld == pytest.approx(divergence(repaired), rel=1e-4)

    removed = read_removed(out / "pruned-2")
    assert removed is not None
    narrow = copy.deepcopy(repaired)
    for layer, columns in zip(narrow.model.layers, removed.columns, strict=True):
        others = sorted(set(range(256)) - set(columns))
        assert len(others) >= 32
        layer.mlp.down_proj.weight.data[:, others] = 0
    assert second.removed_kld == pytest.approx(divergence(narrow), rel=1e-4)
    assert second.kld == pytest.approx(divergence(load_model(Checkpoint(out / "pruned-2"))), rel=1e-4)

    assert third.removed_kld is None
    assert third.kld == pytest.approx(divergence(load_model(Checkpoint(out / "distilled-3"))), rel=1e-4)
    assert found.tokens == windows.size
    assert [stage.step for stage in found.stages] == ["prune_layers", "prune_ffn", "distill"]


def test_the_page_shows_the_steps_and_the_shape(out: Path) -> None:
    page = (out / "report.html").read_text(encoding="utf-8")
    assert '<table id="stages">' in page
    for stage in record(out).stages:
        assert f"{stage.kld:.3g}"[:4] in page
    assert "layer of the student" in page
    assert "left, feed-forward" in page


def test_a_run_without_such_steps_has_no_record(student: Path, recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "out"
    trimmed = (TrimVocabulary(keep=0.9, multiple_of=8, files=recipe.evaluate.files if recipe.evaluate else ()), PLAIN)
    run_whole(open_student(str(student)), msgspec.structs.replace(recipe, compress=trimmed, evaluate=None), out)
    (stage,) = record(out).stages
    assert (stage.step, stage.kld) == ("trim_vocabulary", None)
    assert "What was removed" in (out / "report.html").read_text(encoding="utf-8")
    run_whole(open_student(str(student)), msgspec.structs.replace(recipe, compress=(PLAIN,), evaluate=None), out)
    assert not (out / "measurements" / "shape.json").exists()
    assert "What was removed" not in (out / "report.html").read_text(encoding="utf-8")


def test_heads_that_are_gone_write_nothing(student: Path, recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "out"
    heads = msgspec.structs.replace(recipe, compress=(PruneHeads(keep=0.5, unit="groups"), PLAIN))
    run_whole(open_student(str(student)), heads, out)
    removed = read_removed(out / "pruned-1")
    assert removed is not None
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float64).eval()
    whole = copy.deepcopy(model)
    for layer, columns in zip(model.model.layers, removed.columns, strict=True):
        others = sorted(set(range(layer.self_attn.o_proj.in_features)) - set(columns))
        assert len(others) == len(columns) > 0
        layer.self_attn.o_proj.weight.data[:, others] = 0
    assert recipe.evaluate is not None
    ids = torch.from_numpy(some_windows(evaluation_text(open_student(str(student)), recipe.evaluate)).astype(np.int64))
    with torch.inference_mode():
        p, q = (each(ids).logits.log_softmax(-1) for each in (whole, model))
    expected = float((p.exp() * (p - q)).sum(-1).mean())
    assert record(out).stages[0].removed_kld == pytest.approx(expected, rel=1e-4)


def test_another_text_is_measured_anew(student: Path, recipe: Recipe, tmp_path: Path) -> None:
    out, text, found = tmp_path / "out", tmp_path / "text.txt", []
    evaluate = Evaluate(files=(str(text),), tokens=64, context=32, tensors=False)
    for written in (CORPUS * 2, "Pack my box with five dozen liquor jugs! " * 8):
        text.write_text(written, encoding="utf-8")
        changed = msgspec.structs.replace(recipe, compress=(PruneLayers(drop=1), PLAIN), evaluate=evaluate)
        run_whole(open_student(str(student)), changed, out)
        found.append(record(out).stages[0].kld)
    assert found[0] != found[1]


def test_the_record_is_not_made_twice(student: Path, recipe: Recipe, out: Path) -> None:
    path = out / "measurements" / "shape.json"
    before, text = path.stat().st_ino, json.loads(path.read_text(encoding="utf-8"))
    run_whole(open_student(str(student)), recipe, out)
    assert path.stat().st_ino == before
    assert json.loads(path.read_text(encoding="utf-8")) == text

"""Pruned models go through the pipeline: per-layer shapes load in the engines, and what cannot be held is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pressing import architecture, made, press
from pressing import pruning_recipe as recipe
from tiny_models import make_model_dir
from transformers import AutoModelForCausalLM

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import layer_name
from edgepress.compress.calibrate.config import Calibration
from edgepress.compress.calibrate.tokens import calibration_windows
from edgepress.compress.prune import losses, reconstruct
from edgepress.compress.prune.config import Method, PruneFfn, PruneHeads, PruneLayers
from edgepress.compress.prune.layers import prune_widths
from edgepress.compress.prune.losses import layer_losses
from edgepress.compress.prune.obs import Units
from edgepress.compress.prune.repair import repair
from edgepress.compress.prune.widths import allocated_counts
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.quantize.layers import ERRORS_FILE
from edgepress.compress.student.open import open_student
from edgepress.errors import InputError
from edgepress.runtime.torch_reference import load_model


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers unlike enough in what they lose that a shared budget makes their widths differ."""
    options = {"num_hidden_layers": 3, "intermediate_size": 256}
    return make_model_dir("llama", tmp_path_factory.mktemp("prune") / "student", **options)


def test_layers_of_their_own_shape_load_in_both_engines_and_nothing_is_done_twice(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The parity gates compare both files with torch; they would not be kept otherwise."""
    steps = (PruneFfn(keep=0.6), PruneHeads(keep=0.5, unit="groups", widths="uniform"))
    out = tmp_path / "out"
    press(student, out, recipe(*steps))
    spec = Checkpoint(out / "checkpoint").spec
    wanted = 0.6 * 3 * 256
    assert wanted - 32 < sum(layer.ffn for layer in spec.layers) <= wanted
    assert all(layer.ffn % 32 == 0 for layer in spec.layers)
    assert not spec.uniform
    assert {(layer.heads, layer.kv_heads) for layer in spec.layers} == {(2, 1)}
    assert architecture(out) == "deci"
    assert (out / "onnx" / "model.onnx").is_file()
    before = {part: made(out, part) for part in ("pruned-1", "pruned-2", "checkpoint")}
    press(student, out, recipe(*steps))
    assert {part: made(out, part) for part in before} == before
    press(student, out, recipe())
    assert not (out / "pruned-1").exists()


def test_uniform_shapes_stay_a_plain_model_that_transformers_reloads(student: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    steps = (PruneLayers(drop=1), PruneHeads(keep=0.5), PruneFfn(keep=0.5, widths="uniform"))
    manifest = press(student, out, recipe(*steps))
    assert "2 of 3 layers, feed-forward 128 wide, 2/2 heads" in manifest.lineage.student_notes[-1]
    spec = Checkpoint(out / "checkpoint").spec
    assert (spec.depth, spec.layers[0].ffn, spec.layers[0].heads, spec.layers[0].kv_heads) == (2, 128, 2, 2)
    assert architecture(out) == "llama"
    reloaded = AutoModelForCausalLM.from_pretrained(out / "checkpoint")
    found = load_model(Checkpoint(out / "checkpoint"))
    assert {name: p.shape for name, p in reloaded.named_parameters()} == {
        name: p.shape for name, p in found.named_parameters()
    }


def test_rounding_to_nearest_behind_pruning_is_that_of_the_pruned_student_alone(student: Path, tmp_path: Path) -> None:
    """It does not look at the text that pruning needed, so what it states of a tensor's loss is unweighted as well."""
    nearest = QuantizeStep(solver="nearest", format="q8_0")
    press(student, tmp_path / "out", recipe(PruneFfn(keep=0.5, widths="uniform"), quantize=nearest), ("gguf",))
    press(tmp_path / "out" / "pruned-1", tmp_path / "alone", recipe(quantize=nearest), ("gguf",))
    behind, alone = (Checkpoint(tmp_path / name / "checkpoint") for name in ("out", "alone"))
    assert all((behind.read(name) == alone.read(name)).all() for name in alone.names)
    stated = [json.loads((found.directory / ERRORS_FILE).read_text(encoding="utf-8")) for found in (behind, alone)]
    assert stated[0] == stated[1] and not any(loss["weighted"] for loss in stated[0])


@pytest.mark.parametrize("step", [PruneFfn, PruneHeads])
@pytest.mark.parametrize(
    ("family", "fields", "solved"),
    [
        ("llama", {}, True),
        ("qwen2", {}, True),
        ("llama", {"method": "activation"}, True),
        ("llama", {"method": "flap"}, False),
        ("llama", {"repair": False}, False),
        ("gemma3", {}, False),
    ],
)
def test_behind_neurons_and_heads_all_layers_are_solved_for_the_whole_model(
    family: str, fields: dict[str, Any], solved: bool, step: type[PruneFfn | PruneHeads], tmp_path: Path
) -> None:
    """Seen by what the step itself does not touch: the attention behind neurons, the feed-forward behind heads."""
    source = make_model_dir(family, tmp_path / "student")
    asked = recipe(step(keep=0.5, widths="uniform", **fields), calibration=Calibration(samples=24, length=32))
    press(source, tmp_path / "out", asked, ("onnx",))
    before, after = open_student(str(source)), Checkpoint(tmp_path / "out" / "pruned-1")
    names = [name for name in before.names if ("self_attn" if step is PruneFfn else ".mlp.") in name]
    assert any(not np.array_equal(after.read(name), before.read(name)) for name in names) == solved
    assert not (tmp_path / "out" / "pruned-1" / "first").exists()


@pytest.mark.parametrize("fields", [{}, {"reconstruct": False}, {"repair": False}, {"method": "flap"}])
def test_neurons_that_stay_are_trained_unless_told_otherwise(fields: dict[str, Any], tmp_path: Path) -> None:
    source = make_model_dir("llama", tmp_path / "student")
    asked = recipe(PruneFfn(keep=0.5, widths="uniform", **fields), calibration=Calibration(samples=96, length=32))
    press(source, tmp_path / "out", asked, ("onnx",))
    before, after = open_student(str(source)), Checkpoint(tmp_path / "out" / "pruned-1")
    names = [layer_name(index, f"mlp.{part}_proj") for index in range(2) for part in ("gate", "up")]
    as_they_were = [set(map(bytes, after.read(name))) <= set(map(bytes, before.read(name))) for name in names]
    assert all(as_they_were) == bool(fields)


@pytest.mark.parametrize("trains", [True, False])
def test_what_is_trained_starts_from_a_part_of_the_text_and_is_trained_on_all_of_it(
    trains: bool, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconstruct, "_START_TOKENS", 1024)
    monkeypatch.setattr(reconstruct, "_START_TOKENS_PER_NEURON", 4)  # of 256: also 1,024
    source = open_student(str(student))
    asked, text = PruneFfn(keep=0.5, reconstruct=trains), Calibration(samples=96, length=32)
    press(student, tmp_path / "out", recipe(asked, calibration=text), ("onnx",))
    windows = calibration_windows(source, text)
    part = windows[np.linspace(0, 95, 32).astype(int)] if trains else windows
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    lost = layer_losses(source, asked, part, [64, 64, 64], intercept=True, seed=0)
    units = [Units(count=256, step=32)] * 3
    counts = allocated_counts(units, lost, 3 * 128)
    prune_widths(source, asked, counts, part, tmp_path / "first", name="Tiny", bias=True)
    repair(source, tmp_path / "first", windows, tmp_path / "second", name="Tiny", trains=trains)
    found, by_hand = Checkpoint(tmp_path / "out" / "pruned-1"), Checkpoint(tmp_path / "second")
    assert all(np.array_equal(found.read(name), by_hand.read(name)) for name in by_hand.names)


@pytest.mark.parametrize(
    ("fields", "even"),
    [
        ({}, True),
        ({"method": "activation"}, True),
        ({"method": "activation", "repair": False}, False),
        ({"reconstruct": False}, False),
        ({"method": "flap"}, False),
    ],
)
def test_a_layer_that_is_trained_has_a_least_width_of_its_own(
    fields: dict[str, Any], even: bool, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it all of an even cut, and next to nothing elsewhere, there would be no other width there."""
    monkeypatch.setattr(losses, "_LEAST_OF_TRAINED", 1.0)
    monkeypatch.setattr(losses, "_LEAST_OF_DEEP_CUT", 1.0)
    monkeypatch.setattr(losses, "_LEAST", 0.1)
    press(student, tmp_path / "out", recipe(PruneFfn(keep=0.5, multiple_of=4, **fields)), ("onnx",))
    assert (len({layer.ffn for layer in Checkpoint(tmp_path / "out" / "checkpoint").spec.layers}) == 1) == even


@pytest.mark.parametrize("method", ["obs", "activation", "flap"])
def test_a_model_that_overflows_is_one_line_that_names_the_place(method: Method, tmp_path: Path) -> None:
    source = make_model_dir("llama", tmp_path / "student")
    model = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        model.get_submodule("model.layers.1.mlp.up_proj").weight.mul_(3e20)
        model.get_submodule("model.layers.1.mlp.down_proj").weight.mul_(1e-18)
    model.save_pretrained(source)
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a small model that grew too large. " * 40, encoding="utf-8")
    calibration = Calibration(self_generated=False, files=(str(text),), samples=4, length=32)
    with pytest.raises(InputError, match=r"layers\.1\..*not finite: the model overflows"):
        press(source, tmp_path / "out", recipe(PruneFfn(keep=0.5, method=method), calibration=calibration))
    assert not (tmp_path / "out" / "pruned-1").exists()

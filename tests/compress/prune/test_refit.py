"""What is left of a model without some layers is solved for the whole model's residual stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from dropped_layers import divergence, logits, without
from refit_by_hand import WRITERS, refit_by_hand
from tiny_models import make_model_dir

from edgepress.artifact.families import LAYER
from edgepress.compress.prune.depth import can_repair, choose_layers, drop_layers
from edgepress.compress.prune.refit import refit
from edgepress.compress.student.checkpoint import CheckpointStudent
from edgepress.compress.student.open import open_student
from edgepress.errors import InputError
from edgepress.runtime.torch_reference import load_model

WINDOWS = np.random.default_rng(1).integers(4, 300, (48, 40)).astype(np.int32)
FAMILIES = ("llama", "qwen2", "qwen3")


def deep(family: str, directory: Path) -> Path:
    return make_model_dir(family, directory, num_hidden_layers=6)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("gone", [(2,), (2, 3), (0, 3), (1, 5)])
@pytest.mark.parametrize("count", [3, 48])
def test_every_writer_of_the_stream_is_solved(family: str, gone: tuple[int, ...], count: int, tmp_path: Path) -> None:
    """Against the same walk in float64 by transformers' layers and numpy, λ and all."""
    directory, windows = deep(family, tmp_path / "student"), WINDOWS[:count]
    source, stays = open_student(str(directory)), [index for index in range(6) if index not in gone]
    wanted, changes = refit_by_hand(directory, gone, windows)
    assert changes >= (2 if count == 48 else 1)
    for index, tensors in zip(stays, refit(source, stays, windows), strict=True):
        for part in WRITERS:
            found = tensors[f"{LAYER.format(i=index)}{part}.weight"]
            np.testing.assert_allclose(found, wanted[index, part], atol=2e-4 * np.abs(wanted[index, part]).max())


def test_the_other_tensors_stay_as_they_are(tmp_path: Path) -> None:
    source = open_student(str(deep("llama", tmp_path / "student")))
    for index, tensors in zip((0, 2, 3, 4, 5), refit(source, [0, 2, 3, 4, 5], WINDOWS), strict=True):
        own = {name for name in source.names if name.startswith(LAYER.format(i=index))}
        assert tensors.keys() == own
        for name in own:
            if not name.endswith(("o_proj.weight", "down_proj.weight")):
                assert np.array_equal(tensors[name], source.read(name))


def test_layers_that_did_nothing_leave_nothing_to_repair(tmp_path: Path) -> None:
    directory = deep("llama", tmp_path / "student")
    model = without(directory, ())
    with torch.no_grad():
        for part in ("self_attn.o_proj", "mlp.down_proj"):
            model.get_submodule(f"model.layers.3.{part}").weight.zero_()  # type: ignore[operator]
    model.save_pretrained(directory)  # type: ignore[operator]
    source, stays = open_student(str(directory)), [0, 1, 2, 4, 5]
    for index, tensors in zip(stays, refit(source, stays, WINDOWS), strict=True):
        for name, values in tensors.items():
            np.testing.assert_allclose(values, source.read(name), atol=1e-6, err_msg=f"{index} {name}")


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_is_closer_to_the_whole_than_without_repair(family: str, tmp_path: Path) -> None:
    directory = deep(family, tmp_path / "student")
    source, original = open_student(str(directory)), logits(without(directory, ()))
    (tmp_path / "repaired").mkdir()
    drop_layers(source, [2, 4], tmp_path / "repaired", name="Tiny", repair_on=WINDOWS)
    repaired = CheckpointStudent(tmp_path / "repaired")
    assert repaired.spec.depth == 4
    plain = divergence(original, logits(without(directory, (2, 4))))
    assert divergence(original, logits(load_model(repaired))) < 0.8 * plain


def test_models_that_normalise_what_a_layer_adds_are_told_apart(tmp_path: Path) -> None:
    assert can_repair(open_student(str(make_model_dir("llama", tmp_path / "llama"))))
    assert not can_repair(open_student(str(make_model_dir("gemma3", tmp_path / "gemma3"))))


def test_a_model_that_cannot_be_repaired_is_refused(tmp_path: Path) -> None:
    source = open_student(str(make_model_dir("gemma3", tmp_path / "gemma3")))
    with pytest.raises(InputError, match="normalises what its layers add"):
        drop_layers(source, [2], tmp_path, name="Tiny", repair_on=WINDOWS)


def test_little_text_does_not_make_it_worse(tmp_path: Path) -> None:
    """With one, two or three windows of calibration text a part is held out as well."""
    directory = deep("llama", tmp_path / "student")
    source, original = open_student(str(directory)), logits(without(directory, ()))
    plain = divergence(original, logits(without(directory, (2, 4))))
    for count in (1, 2, 3):
        (tmp_path / str(count)).mkdir()
        drop_layers(source, [2, 4], tmp_path / str(count), name="Tiny", repair_on=WINDOWS[:count])
        assert divergence(original, logits(load_model(CheckpointStudent(tmp_path / str(count))))) < 1.01 * plain


def test_a_stream_that_overflows_is_one_clear_line(tmp_path: Path) -> None:
    directory = deep("llama", tmp_path / "student")
    model = without(directory, ())
    with torch.no_grad():
        model.get_submodule("model.layers.0.mlp.up_proj").weight.mul_(1e22)  # type: ignore[operator]
        model.get_submodule("model.layers.0.mlp.down_proj").weight.mul_(1e17)  # type: ignore[operator]
    model.save_pretrained(directory)  # type: ignore[operator]
    source = open_student(str(directory))
    with pytest.raises(InputError, match="not finite: the model overflows"):
        choose_layers(source, 1, WINDOWS)
    with pytest.raises(InputError, match="not finite: the model overflows"):
        drop_layers(source, [2], tmp_path, name="Tiny", repair_on=WINDOWS)

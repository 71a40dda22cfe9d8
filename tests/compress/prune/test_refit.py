"""What is left of a model without some layers is solved for the whole model's residual stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from dropped_layers import divergence, logits, without
from tiny_models import make_model_dir

from edgepress.artifact.families import LAYER
from edgepress.compress.prune.depth import can_repair, drop_layers
from edgepress.compress.prune.refit import refit
from edgepress.compress.student.checkpoint import CheckpointStudent
from edgepress.compress.student.open import open_student
from edgepress.runtime.torch_reference import load_model

WINDOWS = np.random.default_rng(1).integers(4, 300, (48, 40)).astype(np.int32)
IDS = torch.from_numpy(WINDOWS.astype(np.int64))
FAMILIES = ("llama", "qwen2", "qwen3")


def deep(family: str, directory: Path) -> Path:
    return make_model_dir(family, directory, num_hidden_layers=6)


class _Stream:
    """The streams behind every attention and feed-forward of a transformers model, and what their last linears read."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.inputs: dict[str, np.ndarray] = {}
        self.behind: dict[str, np.ndarray] = {}
        for index, layer in enumerate(model.get_submodule("model.layers").children()):
            for part in ("self_attn.o_proj", "mlp.down_proj"):
                name = f"{index}.{part}"
                layer.get_submodule(part).register_forward_pre_hook(self._reads(name))
            layer.get_submodule("post_attention_layernorm").register_forward_pre_hook(
                self._is(f"{index}.self_attn.o_proj")
            )
            layer.register_forward_hook(self._leaves(f"{index}.mlp.down_proj"))
        with torch.inference_mode():
            model.double()(IDS)

    def _reads(self, name: str):  # type: ignore[no-untyped-def]
        return lambda _module, inputs: self.inputs.update({name: inputs[0].flatten(0, 1).numpy()})

    def _is(self, name: str):  # type: ignore[no-untyped-def]
        return lambda _module, inputs: self.behind.update({name: inputs[0].flatten(0, 1).numpy()})

    def _leaves(self, name: str):  # type: ignore[no-untyped-def]
        return lambda _module, _inputs, out: self.behind.update(
            {name: (out if isinstance(out, torch.Tensor) else out[0]).flatten(0, 1).numpy()}
        )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("gone", [(2,), (2, 3), (0, 3), (1, 5)])
def test_every_writer_of_the_stream_is_at_the_minimum_of_its_ridge(
    family: str, gone: tuple[int, ...], tmp_path: Path
) -> None:
    """The gradient of Σ w |s° - s' |² + λ |W' - W|² with respect to W' is nought, all behind it as it was."""
    directory = deep(family, tmp_path / "student")
    source, stays = open_student(str(directory)), [index for index in range(6) if index not in gone]
    whole = _Stream(without(directory, ()))
    model = without(directory, gone).double()
    parameters = dict(model.named_parameters())
    changed = 0
    for place, (index, tensors) in enumerate(zip(stays, refit(source, stays, WINDOWS), strict=True)):
        until = stays[place + 1] if place + 1 < len(stays) else 6
        for part, wanted in (("self_attn.o_proj", index), ("mlp.down_proj", until - 1)):
            was = source.read(f"{LAYER.format(i=index)}{part}.weight").astype(np.float64)
            new = tensors[f"{LAYER.format(i=index)}{part}.weight"].astype(np.float64)
            with torch.no_grad():
                parameters[f"{LAYER.format(i=place)}{part}.weight"].copy_(torch.from_numpy(new))
            left = _Stream(model)
            target, inputs = whole.behind[f"{wanted}.{part}"], left.inputs[f"{place}.{part}"]
            weights = 1 / np.square(target).mean(1, keepdims=True)
            wrong = ((left.behind[f"{place}.{part}"] - target) * weights).T @ inputs
            # For some λ: of H new - (H was + missing) = λ (was - new) both sides are parallel.
            gradient, pull = wrong.ravel(), (was - new).ravel()
            if pull.any():
                assert gradient @ pull > 0.99999 * np.linalg.norm(gradient) * np.linalg.norm(pull)
            changed += not np.array_equal(new, was)
    before = sum(index < min(gone) for index in stays)
    assert 0 < changed <= 2 * len(stays) - (2 * before - 1 if before else 0)


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

"""Fitted norms: every chosen channel leaves every norm with the mean and the deviation that it had before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from one_core import one_core  # noqa: F401
from sliceable import inputs_for, make_model, sizes_of, write
from torch import nn

from edgepress.compress.slices.norms import Moments, fitted
from edgepress.compress.slices.sliced import slice_encoder
from edgepress.compress.slices.source import encoder_family, open_encoder

pytestmark = pytest.mark.usefixtures("one_core")


def outputs(model: nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What each layer norm gives, rows of channels."""
    seen: dict[str, torch.Tensor] = {}

    def see(name: str) -> Any:
        return lambda _module, _inputs, output: seen.__setitem__(name, output.flatten(0, -2).double())

    hooks = [
        module.register_forward_hook(see(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
    ]
    with torch.no_grad():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("architecture", ["BertModel", "DistilBertModel", "ViTForImageClassification", "DeiTModel"])
@pytest.mark.parametrize("select", ["importance", "uniform"])
def test_every_channel_keeps_its_mean_and_deviation(architecture: str, select: Any, tmp_path: Path) -> None:
    model, inputs = make_model(architecture), inputs_for(architecture, count=12)
    family = encoder_family(write(model, tmp_path))
    assert family is not None
    sizes = sizes_of(architecture, 24, 2, 3, 20)
    sliced = slice_encoder(open_encoder(tmp_path, family), sizes, inputs, select=select)
    whole, small = outputs(model, inputs), outputs(sliced.model, inputs)
    assert len(small) == 5
    origin = {"0": "0", "1": "2"}  # layers 0 and 2 of three
    for name, found in small.items():
        wanted = whole[".".join(origin.get(part, part) for part in name.split("."))][:, sliced.chosen.hidden]
        torch.testing.assert_close(found.mean(0), wanted.mean(0), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.std(0), wanted.std(0), rtol=1e-4, atol=1e-4)


def test_without_inputs_gains_and_biases_stay(tmp_path: Path) -> None:
    family = encoder_family(write(make_model("BertModel"), tmp_path))
    assert family is not None
    source = open_encoder(tmp_path, family)
    sliced = slice_encoder(source, sizes_of("BertModel", 32, 3, 2, 24), select="uniform")
    for leaf in ("weight", "bias"):
        name = f"encoder.layer.1.output.LayerNorm.{leaf}"
        assert torch.equal(sliced.tensors[name], source.tensors[name][::2])
    assert not sliced.fitted


def test_a_gain_keeps_its_sign_and_a_still_channel_its_gain() -> None:
    wanted = Moments(torch.tensor([1.0, 1.0, 3.0]).double(), torch.tensor([2.0, 2.0, 0.0]).double())
    found = Moments(torch.tensor([0.5, 0.5, 2.0]).double(), torch.tensor([4.0, 4.0, 0.0]).double())
    gain, bias = fitted(torch.tensor([0.1, -7.0, 5.0]), wanted, found)
    assert gain.tolist() == [0.5, -0.5, 5.0]
    assert bias.tolist() == [0.75, 1.25, -7.0]

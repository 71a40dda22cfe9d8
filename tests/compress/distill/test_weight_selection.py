"""Slices of a larger model: bit for bit the model when nothing is removed, and the same function when zeros are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from one_core import one_core  # noqa: F401
from safetensors.numpy import load_file, save_file
from tiny_models import make_model_dir

from edgepress.artifact.families import HEAD
from edgepress.artifact.spec import ModelSpec
from edgepress.artifact.weights import WeightSource
from edgepress.compress.distill.channel_statistics import channel_statistics
from edgepress.compress.distill.smaller import smaller_size
from edgepress.compress.distill.weight_selection import SelectedWeights, evenly, strongest
from edgepress.compress.student.open import open_student
from edgepress.compress.student.student import Student
from edgepress.errors import InputError
from edgepress.runtime.torch_reference import load_model

pytestmark = pytest.mark.usefixtures("one_core")
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def windows() -> np.ndarray:
    return np.random.default_rng(0).integers(4, 300, (4, 24)).astype(np.int32)


def logits(source: WeightSource) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = load_model(source)(torch.from_numpy(windows().astype(np.int64))).logits
    return found


@pytest.mark.parametrize("by_importance", [False, True])
def test_nothing_removed_is_the_same_to_the_bit(family_dir: Path, by_importance: bool) -> None:
    source = open_student(str(family_dir))
    statistics = channel_statistics(source, windows()) if by_importance else None
    same = SelectedWeights(source, smaller_size(source, {}), statistics)
    assert same.names == source.names
    for name in source.names:
        np.testing.assert_array_equal(same.read(name), source.read(name))


def emptied(family: str, directory: Path, sizes: dict[str, int]) -> Student:
    """A model of which all but the first channels, heads and dimensions of each kind are zero everywhere."""
    make_model_dir(family, directory, rms_norm_eps=1e-30)
    spec = open_student(str(directory)).spec
    tensors = load_file(directory / "model.safetensors")
    for name, values in tensors.items():
        for axis, kept in _kept(name, spec, sizes).items():
            lost = np.setdiff1d(np.arange(values.shape[axis]), kept)
            values[(slice(None),) * axis + (lost,)] = 0
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return open_student(str(directory))


def _kept(name: str, spec: ModelSpec, sizes: dict[str, int]) -> dict[int, np.ndarray]:
    """Axis → places that keep their numbers."""
    hidden, ffn = np.arange(sizes["hidden"]), np.arange(sizes["ffn"])
    layer, dims = spec.layers[0], sizes["head_dim"]
    first = np.arange(dims // 2) * (spec.head_dim // dims)
    pairs = np.concatenate([first, first + spec.head_dim // 2])
    per_group = layer.heads // layer.kv_heads
    q = np.concatenate([h * spec.head_dim + pairs for h in range(layer.heads) if h % per_group < sizes["per_group"]])
    q = q[q < sizes["kv_heads"] * per_group * spec.head_dim]
    kv = np.concatenate([h * spec.head_dim + pairs for h in range(sizes["kv_heads"])])
    whole = {"embed_tokens": {1: hidden}, "lm_head": {1: hidden}, "down_proj": {0: hidden, 1: ffn}}
    whole |= {"o_proj": {0: hidden, 1: q}, "q_proj": {0: q, 1: hidden}}
    whole |= {part: {0: kv, 1: hidden} for part in ("k_proj", "v_proj")}
    whole |= {part: {0: ffn, 1: hidden} for part in ("gate_proj", "up_proj")}
    part = name.split(".")[-2]
    axes = whole.get(part, {})
    return {0: axes[0]} if name.endswith("bias") else axes


@pytest.mark.parametrize("family", ["llama", "llama3", "qwen2", "qwen3", "gemma3"])
@pytest.mark.parametrize("halved", ["hidden", "ffn", "kv_heads", "per_group", "head_dim", "all"])
def test_removing_zeros_changes_no_logit(family: str, halved: str, tmp_path: Path) -> None:
    spec = open_student(str(make_model_dir(family, tmp_path / "whole"))).spec
    layer = spec.layers[0]
    whole = {"hidden": spec.hidden, "ffn": layer.ffn, "kv_heads": layer.kv_heads, "head_dim": spec.head_dim}
    whole["per_group"] = layer.heads // layer.kv_heads
    small = {name: size // 2 if halved in (name, "all") else size for name, size in whole.items()}
    source = emptied(family, tmp_path / "emptied", small)
    sizes = {
        "hidden_size": small["hidden"],
        "intermediate_size": small["ffn"],
        "num_key_value_heads": small["kv_heads"],
        "num_attention_heads": small["kv_heads"] * small["per_group"],
        "head_dim": small["head_dim"],
    }
    student = SelectedWeights(source, smaller_size(source, sizes), channel_statistics(source, windows()))
    assert student.spec.hidden == small["hidden"]
    torch.testing.assert_close(logits(student), logits(source), rtol=2e-4, atol=2e-4)


def test_channels_are_the_same_along_the_residual_stream(family_dir: Path) -> None:
    """Each slice against the source's tensor, by the channels that the embedding shows."""
    source = open_student(str(family_dir))
    student = SelectedWeights(source, smaller_size(source, SMALL))
    chosen = evenly(32, 64)
    scale = source.spec.embedding_scale / student.spec.embedding_scale
    np.testing.assert_allclose(
        student.read("model.embed_tokens.weight"),
        source.read("model.embed_tokens.weight")[:, chosen] * scale,
        rtol=1e-6,
    )
    layer = int(student.selection.layers[-1])
    wanted = source.read(f"model.layers.{layer}.mlp.down_proj.weight")[np.ix_(chosen, evenly(48, 128))]
    np.testing.assert_array_equal(student.read(f"model.layers.{student.spec.depth - 1}.mlp.down_proj.weight"), wanted)


def test_every_slice_has_the_shape_of_the_configuration(family_dir: Path, tmp_path: Path) -> None:
    source = open_student(str(family_dir))
    student = SelectedWeights(source, smaller_size(source, SMALL | {"num_hidden_layers": 2}))
    for name in student.names:
        assert student.read(name).shape == student.shape(name)
    assert bool(logits(student).isfinite().all())
    assert (HEAD in student.names) == (HEAD in source.names)


def test_query_heads_stay_with_their_keys(tmp_path: Path) -> None:
    source = open_student(
        str(make_model_dir("llama", tmp_path / "m", num_attention_heads=8, num_key_value_heads=4, head_dim=16))
    )
    sizes = {"num_attention_heads": 2, "num_key_value_heads": 2}
    selection = SelectedWeights(source, smaller_size(source, sizes)).selection
    for kv, q in zip(selection.kv_heads, selection.heads, strict=True):
        assert (q // 2).tolist() == kv.tolist()


def test_layers_are_spread_from_the_first_to_the_last_or_are_the_first(tmp_path: Path) -> None:
    source = open_student(str(make_model_dir("gemma3", tmp_path / "m")))
    spread = smaller_size(source, {"num_hidden_layers": 3})
    assert spread.layers == (0, 3, 6)
    assert smaller_size(source, {"num_hidden_layers": 3}, "first").layers == (0, 1, 2)
    assert smaller_size(source, {"num_hidden_layers": 1}).layers == (0,)
    types = source.config["layer_types"]
    assert spread.config["layer_types"] == [types[index] for index in spread.layers]


def test_a_student_without_its_middle_layers_runs_the_others(tmp_path: Path) -> None:
    """Layers that add nothing to the residual stream may be left out."""
    directory = make_model_dir("llama", tmp_path / "m", num_hidden_layers=4)
    tensors = load_file(directory / "model.safetensors")
    for index in (1, 2):
        for part in ("self_attn.o_proj", "mlp.down_proj"):
            tensors[f"model.layers.{index}.{part}.weight"][:] = 0
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    source = open_student(str(directory))
    student = SelectedWeights(source, smaller_size(source, {"num_hidden_layers": 2}))
    torch.testing.assert_close(logits(student), logits(source), rtol=1e-5, atol=1e-5)


def test_importance_finds_the_channels_that_carry_something(tmp_path: Path) -> None:
    directory = make_model_dir("llama", tmp_path / "m")
    tensors, rng = load_file(directory / "model.safetensors"), np.random.default_rng(1)
    loud = np.sort(rng.choice(128, 48, replace=False))
    for index in range(2):
        tensors[f"model.layers.{index}.mlp.up_proj.weight"][np.setdiff1d(np.arange(128), loud)] *= 1e-3
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    source = open_student(str(directory))
    student = SelectedWeights(source, smaller_size(source, SMALL), channel_statistics(source, windows()))
    assert [ffn.tolist() for ffn in student.selection.ffn] == [loud.tolist()] * 2


def test_the_strongest_are_kept_in_their_order() -> None:
    assert strongest(2, np.array([0.1, 3.0, 2.0, 5.0])).tolist() == [1, 3]
    assert strongest(2, np.ones(4)).tolist() == [0, 1]
    assert evenly(3, 7).tolist() == [0, 2, 4]


def test_the_digest_changes_with_the_choice(llama_dir: Path) -> None:
    source = open_student(str(llama_dir))
    ways = [
        SelectedWeights(source, smaller_size(source, SMALL)),
        SelectedWeights(source, smaller_size(source, SMALL | {"hidden_size": 48})),
        SelectedWeights(source, smaller_size(source, SMALL), channel_statistics(source, windows())),
    ]
    assert len({way.digest() for way in ways}) == 3
    assert ways[0].digest() == SelectedWeights(source, smaller_size(source, SMALL)).digest()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hidden_size": 128}, "hidden_size 128 is more than the larger model's 64"),
        ({"intermediate_size": 129}, "intermediate_size 129 is more than"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3; the larger model has 2"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers is 'two'"),
        ({"num_key_value_heads": 4}, "num_key_value_heads 4 is more than"),
        ({"num_key_value_heads": 1}, "query heads per key-value head 4 is more than the larger model's 2"),
        ({"head_dim": 10}, "head_dim 10 does not divide 16"),
        ({"vocab_size": 100}, r"'vocab_size' is not a size \(100 here, \d+ in the larger model"),
        ({"hidden_size": 0}, "hidden_size must be a positive integer"),
    ],
)
def test_what_the_larger_model_does_not_contain_is_refused(
    llama_dir: Path, sizes: dict[str, Any], message: str
) -> None:
    source = open_student(str(llama_dir))
    with pytest.raises(InputError, match=message):
        SelectedWeights(source, smaller_size(source, sizes))


def test_the_configuration_is_one_that_transformers_reads(llama_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig

    source = open_student(str(llama_dir))
    size = smaller_size(source, SMALL)
    (tmp_path / "config.json").write_text(json.dumps(size.config), encoding="utf-8")
    read = AutoConfig.from_pretrained(tmp_path)
    assert (read.hidden_size, read.head_dim, read.num_attention_heads) == (32, 16, 2)

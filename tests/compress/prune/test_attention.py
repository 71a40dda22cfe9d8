"""Attention is dropped by the divergence that its loss causes, nothing else changes, and what stays makes up for it."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from dropped_layers import WINDOWS, divergence, logits
from repaired_by_hand import load, repaired_by_hand
from tiny_models import make_model_dir
from transformers import AutoModelForCausalLM

from edgepress.artifact.families import LAYER
from edgepress.compress.prune.choose_attention import attention_influence, choose_attention
from edgepress.compress.prune.choose_layers import choose_layers
from edgepress.compress.prune.depth import drop_attention
from edgepress.compress.prune.removed import read_removed
from edgepress.compress.prune.repair import repair
from edgepress.compress.search.divergence import Divergence
from edgepress.compress.student.checkpoint import CheckpointStudent
from edgepress.compress.student.open import open_student
from edgepress.runtime.torch_reference import load_model

FIT = np.random.default_rng(1).integers(4, 300, (48, 40)).astype(np.int32)
DEPTHS = {"llama": 5, "qwen2": 5, "qwen3": 5, "gemma3": 7}


@pytest.fixture(scope="module", params=DEPTHS)
def student(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp(request.param) / "student"
    return make_model_dir(request.param, directory, num_hidden_layers=DEPTHS[request.param])


def silenced(directory: Path, gone: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """transformers' own model, in which some layers' attention says nothing."""
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
    for index in gone:
        for parameter in model.get_submodule(f"model.layers.{index}.self_attn.o_proj").parameters():
            parameter.data.zero_()
    return model


def dropped(directory: Path, gone: tuple[int, ...], at: Path) -> CheckpointStudent:
    at.mkdir()
    drop_attention(open_student(str(directory)), list(gone), at, name="Tiny")
    return CheckpointStudent(at)


def test_what_is_written_is_the_model_with_that_attention_silenced(student: Path, tmp_path: Path) -> None:
    found = dropped(student, (1, 3), tmp_path / "out")
    assert [layer.heads > 0 for layer in found.spec.layers][:5] == [True, False, True, False, True]
    assert not any(
        name.startswith((f"{LAYER.format(i=1)}self_attn", f"{LAYER.format(i=3)}input")) for name in found.names
    )
    torch.testing.assert_close(logits(load_model(found)), logits(silenced(student, (1, 3))), rtol=1e-4, atol=1e-4)
    removed, source = read_removed(tmp_path / "out"), open_student(str(student))
    assert removed is not None
    masked = Divergence(source, WINDOWS).of(removed.change(source.spec))
    assert masked == pytest.approx(divergence(logits(silenced(student, ())), logits(load_model(found))), rel=1e-3)


def test_decoding_goes_on_where_the_prompt_ended(student: Path, tmp_path: Path) -> None:
    """Layers without keys and values leave the count of cached tokens alone."""
    model = load_model(dropped(student, (2,), tmp_path / "out"))
    tokens = torch.from_numpy(WINDOWS[:1].astype(np.int64))
    with torch.inference_mode():
        whole = model(tokens).logits
        first = model(tokens[:, :20], use_cache=True)
        rest = model(tokens[:, 20:], past_key_values=first.past_key_values, use_cache=True).logits
    torch.testing.assert_close(rest, whole[:, 20:], rtol=1e-4, atol=1e-4)


def test_the_attention_of_least_divergence_goes_and_never_the_first(student: Path) -> None:
    original, depth = logits(silenced(student, ())), open_student(str(student)).spec.depth
    costs = {gone: divergence(original, logits(silenced(student, gone))) for gone in combinations(range(1, depth), 1)}
    influence = attention_influence(open_student(str(student)), WINDOWS)
    tried = sorted(range(1, depth), key=lambda index: influence[index])[:4]
    chosen = choose_attention(open_student(str(student)), 1, WINDOWS)
    assert chosen == [min(tried, key=lambda index: costs[(index,)])]
    assert 0 not in choose_attention(open_student(str(student)), depth - 1, WINDOWS)


def test_influence_is_how_far_attention_turns_the_stream(tmp_path: Path) -> None:
    """Seen from outside: a layer whose feed-forward says nothing leaves the stream as its attention does."""
    directory = make_model_dir("llama", tmp_path / "student", num_hidden_layers=3)
    model = silenced(directory, ())
    model.get_submodule("model.layers.1.mlp.down_proj").weight.data.zero_()  # type: ignore[operator]
    model.save_pretrained(directory)  # type: ignore[operator]
    with torch.inference_mode():
        states = model(torch.from_numpy(WINDOWS.astype(np.int64)), output_hidden_states=True).hidden_states
    cosine = torch.cosine_similarity(states[1].double(), states[2].double(), dim=-1).mean()
    found = attention_influence(open_student(str(directory)), WINDOWS)
    assert list(found) == [0, 1, 2]
    assert found[1] == pytest.approx(1 - float(cosine), abs=1e-5)


@pytest.mark.parametrize("gone", [(1,), (2, 3), (1, 4)])
def test_what_stays_is_solved_in_turn(gone: tuple[int, ...], tmp_path: Path) -> None:
    """Against the same walk in float64 by transformers' layers and numpy, λ and all."""
    directory = make_model_dir("llama", tmp_path / "student", num_hidden_layers=5)
    before = dropped(directory, gone, tmp_path / "before")
    (tmp_path / "after").mkdir()
    repair(open_student(str(directory)), tmp_path / "before", FIT, tmp_path / "after", name="Tiny")
    found, whole = CheckpointStudent(tmp_path / "after"), load(directory)
    wanted, changes = repaired_by_hand(whole, silenced(directory, gone, torch.float64), np.arange(64), FIT, deaf=gone)
    assert changes >= 3
    assert found.names == before.names
    for name in before.names:
        hand = wanted.get_parameter(name).detach().numpy()
        change, error = np.linalg.norm(hand - before.read(name)), np.linalg.norm(hand - found.read(name))
        assert error <= 0.06 * change + 1e-5, name
    original = logits(silenced(directory, ()))
    assert divergence(original, logits(load_model(found))) < 0.8 * divergence(original, logits(load_model(before)))


def test_whole_layers_may_go_as_well_but_not_the_last_attention_in_front(tmp_path: Path) -> None:
    """What is left has to begin with attention."""
    directory = make_model_dir("llama", tmp_path / "student", num_hidden_layers=4)
    found = dropped(directory, (1, 2, 3), tmp_path / "out")
    assert 0 not in choose_layers(found, 3, WINDOWS)
    assert 0 not in choose_layers(found, 2, FIT, tried_in=tmp_path / "tried")

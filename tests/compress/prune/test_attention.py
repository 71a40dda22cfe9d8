"""Attention is dropped by the divergence that its loss causes, nothing else changes, and what stays makes up for it."""

from __future__ import annotations

from itertools import accumulate, combinations, pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from dropped_layers import WINDOWS, divergence, logits
from repaired_by_hand import load, repaired_by_hand
from tiny_models import make_model_dir
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

from edgepress.artifact.families import LAYER
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.inputs import input_maxima
from edgepress.compress.prune.choose_attention import attention_influence, choose_attention
from edgepress.compress.prune.depth import drop_attention
from edgepress.compress.prune.removed import read_removed
from edgepress.compress.prune.repair import repair
from edgepress.compress.quantize.assign import assign_formats
from edgepress.compress.quantize.config import Preparation, QuantizeStep
from edgepress.compress.quantize.prepare.apply import prepare
from edgepress.compress.quantize.smooth import smooth
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


SLIDING = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2, "num_hidden_layers": 4}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"num_hidden_layers": 4},
    "gemma3": {"num_hidden_layers": 12, "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 2},
    "qwen3": SLIDING | {"layer_types": ["full_attention"] * 2 + ["sliding_attention"] * 2},
}


@pytest.mark.parametrize(("family", "gone"), [("llama", 2), ("gemma3", 5), ("gemma3", 4), ("qwen3", 2), ("qwen3", 1)])
@pytest.mark.parametrize("pieces", [(10, 5, 17), (1,) * 32])
@pytest.mark.parametrize("growing", [True, False])
def test_decoding_goes_on_where_the_prompt_ended(
    family: str, gone: int, pieces: tuple[int, ...], growing: bool, tmp_path: Path
) -> None:
    """Also where the first layer that sees all, or the first that sees a window, is one that sees nothing now."""
    directory = make_model_dir(family, tmp_path / "student", **KINDS[family])
    model = load_model(dropped(directory, (gone,), tmp_path / "out"))
    tokens = torch.from_numpy(WINDOWS[:1].astype(np.int64))
    cache = DynamicCache(config=model.config) if growing else StaticCache(config=model.config, max_cache_len=32)
    with torch.inference_mode():
        whole, found = model(tokens).logits, list[torch.Tensor]()
        for start, end in pairwise(accumulate(pieces, initial=0)):
            found.append(model(tokens[:, start:end], past_key_values=cache, use_cache=True).logits)
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=1e-4, atol=1e-4)


def test_the_attention_of_least_divergence_goes_and_never_the_first(student: Path) -> None:
    original, depth = logits(silenced(student, ())), open_student(str(student)).spec.depth
    costs = {gone: divergence(original, logits(silenced(student, gone))) for gone in combinations(range(1, depth), 1)}
    influence = attention_influence(open_student(str(student)), WINDOWS)
    tried = sorted(range(1, depth), key=lambda index: influence[index])[:4]
    chosen = choose_attention(open_student(str(student)), 1, WINDOWS)
    first = min(tried, key=lambda index: costs[(index,)])
    assert chosen == [first]
    tried = sorted(set(range(1, depth)) - {first}, key=lambda index: influence[index])[:4]
    second = min(tried, key=lambda index: divergence(original, logits(silenced(student, (first, index)))))
    assert choose_attention(open_student(str(student)), 2, WINDOWS) == sorted([first, second])
    assert choose_attention(open_student(str(student)), depth - 1, WINDOWS) == list(range(1, depth))


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
        assert error <= 1e-3 * change + 1e-5, name
    original = logits(silenced(directory, ()))
    assert divergence(original, logits(load_model(found))) < 0.8 * divergence(original, logits(load_model(before)))


@pytest.mark.parametrize("method", [*get_args(Preparation), "smooth"])
def test_what_prepares_for_rounding_leaves_the_logits(student: Path, tmp_path: Path, method: Any) -> None:
    found = dropped(student, (1, 3), tmp_path / "out")
    if method == "smooth":
        linears = frozenset(name for name in found.names if name.endswith("_proj.weight"))
        model: WeightSource = smooth(found, input_maxima(found, WINDOWS), linears, 0.5)
    else:
        step = QuantizeStep(solver="scale_search", format="q4_0", embedding="f32", prepare=(method,))
        model = prepare(found, step, assign_formats(found, step).formats, WINDOWS)
    before, after = logits(load_model(found).double()), logits(load_model(model).double())
    torch.testing.assert_close(after, before, rtol=0, atol=5e-6 * float(before.abs().max()))
    assert any(not np.array_equal(model.read(name), found.read(name)) for name in found.names)


def test_transformers_does_not_fill_in_what_is_gone(student: Path, tmp_path: Path) -> None:
    dropped(student, (1,), tmp_path / "out")
    with pytest.raises(Exception, match="layer_types"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out")

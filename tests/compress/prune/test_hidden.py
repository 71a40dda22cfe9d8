"""Channels of the residual stream go, and what stays is solved for the whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dropped_layers import WINDOWS as JUDGED
from dropped_layers import divergence, logits
from repaired_by_hand import load, repaired_by_hand, run, solve_for
from tiny_models import FAMILY_NAMES, make_model_dir
from transformers import AutoModelForCausalLM

from edgepress.artifact.families import LAYER, LINEARS
from edgepress.compress.prune.config import PruneHidden
from edgepress.compress.prune.hidden import kept_channels, prune_hidden
from edgepress.compress.prune.removed import read_removed
from edgepress.compress.prune.repair import repair
from edgepress.compress.search.divergence import Divergence
from edgepress.compress.student.checkpoint import CheckpointStudent
from edgepress.compress.student.open import open_student
from edgepress.errors import InputError
from edgepress.runtime.torch_reference import load_model

WINDOWS = np.random.default_rng(1).integers(4, 300, (48, 40)).astype(np.int32)


def narrowed(directory: Path, out: Path, windows: np.ndarray = WINDOWS, **fields: Any) -> CheckpointStudent:
    source, step = open_student(str(directory)), PruneHidden(**{"keep": 0.75, "multiple_of": 16} | fields)
    slices = out / "slices" if step.repair else out
    slices.mkdir(parents=True)
    prune_hidden(source, step, windows, slices, name="Tiny")
    if step.repair:
        repair(source, slices, windows, out, name="Tiny")
    return CheckpointStudent(out)


def near(found: np.ndarray, wanted: np.ndarray, before: np.ndarray) -> bool:
    """Whether a change was made as wanted. Factors may be bfloat16 where the processor multiplies such."""
    return bool(np.linalg.norm(found - wanted) <= 0.05 * np.linalg.norm(wanted - before))


def channels(out: Path) -> np.ndarray:
    removed = read_removed(out)
    assert removed is not None
    return np.asarray(removed.channels)


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("count", [3, 48])
def test_what_stays_is_solved_in_turn(family: str, count: int, tmp_path: Path) -> None:
    """Against the same walk in float64 by transformers' layers and numpy, λ and all."""
    directory = make_model_dir(family, tmp_path / "student")
    slices = narrowed(directory, tmp_path / "slices", WINDOWS[:count], repair=False)
    found = narrowed(directory, tmp_path / "solved", WINDOWS[:count])
    chosen, direct = channels(tmp_path / "solved"), family != "gemma3"
    models = load(directory), load(tmp_path / "slices")
    wanted, changes = repaired_by_hand(*models, chosen, WINDOWS[:count], writers=direct)
    assert len(chosen) == 48 and chosen.tolist() == sorted(chosen) and changes >= (4 if count == 48 else 2)
    for index in range(found.spec.depth):
        for part in LINEARS.values():
            name = f"{LAYER.format(i=index)}{part}.weight"
            hand = wanted.get_parameter(name).detach().numpy()
            assert near(found.read(name), hand, slices.read(name)), name


@pytest.mark.parametrize("family", ["llama3", "qwen2"])
def test_a_head_of_its_own_is_solved_for_the_whole_norm(family: str, tmp_path: Path) -> None:
    directory = make_model_dir(family, tmp_path / "student")
    slices = narrowed(directory, tmp_path / "slices", repair=False)
    found = narrowed(directory, tmp_path / "solved")
    whole, narrow, kept = load(directory), load(tmp_path / "solved"), channels(tmp_path / "solved")
    last = found.spec.depth - 1
    before = [m.get_submodule("model.norm")(run(m, last, ("mlp.down_proj",), WINDOWS)[2]) for m in (whole, narrow)]
    choice = torch.nn.Linear(48, 64, bias=False, dtype=torch.float64)
    with torch.no_grad():
        choice.weight.zero_()
        choice.weight[torch.from_numpy(kept), torch.arange(48)] = 1
        ones = torch.ones(*before[0].shape[:2], 1, dtype=torch.float64)
        assert solve_for([choice], before[1], before[0] - choice(before[1]), ones)
        wanted = (whole.get_parameter("lm_head.weight") @ choice.weight).numpy()
    assert near(found.read("lm_head.weight"), wanted, slices.read("lm_head.weight"))


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_channels_that_carry_nothing_go_first_and_cost_nothing(family: str, tmp_path: Path) -> None:
    directory = make_model_dir(family, tmp_path / "student")
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    empty = np.random.default_rng(2).choice(64, 16, replace=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[:, empty] = 0
        for name, tensor in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                tensor[empty] = 0
    model.save_pretrained(directory)
    whole = logits(load_model(open_student(str(directory))))
    for solved in (True, False):
        out = tmp_path / str(solved)
        found = narrowed(directory, out, repair=solved)
        assert sorted({*range(64)} - {*channels(out).tolist()}) == sorted(empty.tolist())
        assert float((logits(load_model(found)) - whole).abs().max()) < (2e-2 if solved else 1e-3)


@pytest.mark.parametrize("biases", [{}, {"attention_bias": True, "mlp_bias": True}])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_removal_alone_is_told_by_the_shapes_of_before(
    family: str, biases: dict[str, bool], tmp_path: Path
) -> None:
    source = open_student(str(make_model_dir(family, tmp_path / "student", **biases)))
    out = tmp_path / "slices"
    plain = narrowed(tmp_path / "student", out, repair=False)
    removed = read_removed(out)
    assert removed is not None
    judged = Divergence(source, JUDGED)
    masked = judged.of_model(source, removed.change(source.spec))
    assert masked == pytest.approx(divergence(logits(load_model(source)), logits(load_model(plain))), rel=1e-3)
    assert masked == pytest.approx(judged.of_model(plain), rel=1e-3)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_repair_brings_it_nearer_to_the_whole(family: str, tmp_path: Path) -> None:
    directory = make_model_dir(family, tmp_path / "student")
    whole = logits(load_model(open_student(str(directory))))
    losses = {
        solved: divergence(whole, logits(load_model(narrowed(directory, tmp_path / str(solved), repair=solved))))
        for solved in (True, False)
    }
    assert losses[True] < 0.97 * losses[False]


def test_nothing_is_touched_where_everything_stays(tmp_path: Path) -> None:
    directory = make_model_dir("llama", tmp_path / "student")
    source, found = open_student(str(directory)), narrowed(directory, tmp_path / "out", keep=1.0)
    for name in source.names:
        assert np.array_equal(found.read(name), source.read(name)), name


@pytest.mark.parametrize("options", [{}, {"attention_bias": True}])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_width_that_is_no_multiple_of_the_heads_is_loaded(
    family: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """transformers' own class takes it where there is one for it; edgepress always does."""
    directory = make_model_dir(family, tmp_path / "student", **options)
    found = narrowed(directory, tmp_path / "out", keep=0.66, multiple_of=2)
    assert found.spec.hidden == 42 and found.spec.layers[0].heads == 4
    own = logits(load_model(found))
    assert own.isfinite().all()
    if family == "llama" and not options:
        assert found.config["model_type"] == "mistral" and found.config["sliding_window"] is None
        reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
        torch.testing.assert_close(logits(reloaded), own, atol=1e-4, rtol=1e-4)


def test_how_many_channels_stay() -> None:
    assert [kept_channels(576, PruneHidden(keep=keep)) for keep in (1.0, 0.9, 0.5, 0.06)] == [576, 512, 256, 64]
    assert [kept_channels(100, PruneHidden(keep=keep)) for keep in (1.0, 0.8)] == [100, 64]


@pytest.mark.parametrize(
    ("hidden", "keep", "multiple_of", "message"),
    [
        (576, 0.01, 64, r"keep 0\.01 of 576 channels leaves none of them.*take keep from 0\.111 to 0\.889, or a"),
        (576, 0.97, 64, r"keep 0\.97 of 576 channels leaves all of them.*take keep from 0\.111 to 0\.889, or a"),
        (100, 0.99, 64, r"leaves all of them.*take keep from 0\.64 to 0\.64, or a smaller multiple_of"),
        (64, 0.9, 256, r"leaves none of them.*take a smaller multiple_of"),
        (64, 0.9, 64, r"leaves all of them.*take a smaller multiple_of"),
    ],
)
def test_a_share_that_rounds_to_nothing_or_to_all_is_refused(
    hidden: int, keep: float, multiple_of: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        kept_channels(hidden, PruneHidden(keep=keep, multiple_of=multiple_of))

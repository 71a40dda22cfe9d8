"""What is left of a model is solved for the whole one: without some layers, and without some neurons or heads.

Fewer channels: test_hidden.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dropped_layers import divergence, logits, without
from repaired_by_hand import repaired_by_hand
from tiny_models import make_model_dir

from edgepress.artifact.families import LAYER, LINEARS
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate import one_dnn, skeleton
from edgepress.compress.prune.choose_layers import choose_layers
from edgepress.compress.prune.config import PruneFfn, PruneHeads
from edgepress.compress.prune.depth import drop_layers
from edgepress.compress.prune.layers import prune_widths
from edgepress.compress.prune.parts import WidthStep
from edgepress.compress.prune.removed import REMOVED_FILE
from edgepress.compress.prune.repair import repair, writes_directly
from edgepress.compress.student.checkpoint import CheckpointStudent
from edgepress.compress.student.open import open_student
from edgepress.errors import InputError
from edgepress.runtime.torch_reference import load_model

WINDOWS = np.random.default_rng(1).integers(4, 300, (48, 40)).astype(np.int32)
FAMILIES = ("llama", "qwen2", "qwen3")
STEPS: dict[str, WidthStep] = {
    "neurons": PruneFfn(keep=0.5),
    "heads": PruneHeads(keep=0.5),
    "groups": PruneHeads(keep=0.5, unit="groups"),
}
COUNTS = {"neurons": (64, 128), "heads": (2, 4), "groups": (1, 2)}


def deep(family: str, at: Path) -> WeightSource:
    return open_student(str(make_model_dir(family, at / "student", num_hidden_layers=6)))


def shallower(
    source: WeightSource, gone: tuple[int, ...], at: Path, windows: np.ndarray = WINDOWS
) -> tuple[CheckpointStudent, CheckpointStudent]:
    """Without some layers, as they were and solved."""
    (at / "pruned").mkdir(parents=True)
    drop_layers(source, list(gone), at / "pruned", name="Tiny")
    return solved(source, at, windows)


def narrower(family: str, what: str, at: Path, *, uniform: bool = False) -> tuple[CheckpointStudent, CheckpointStudent]:
    """Of a model of two layers, the first of which, or both, have lost something: as they were and solved."""
    source = open_student(str(make_model_dir(family, at / "student", num_hidden_layers=2)))
    (at / "pruned").mkdir()
    counts = [COUNTS[what][0]] * 2 if uniform else list(COUNTS[what])
    prune_widths(source, STEPS[what], counts, WINDOWS, at / "pruned", name="Tiny", bias=False)
    return solved(source, at, WINDOWS)


def solved(source: WeightSource, at: Path, windows: np.ndarray) -> tuple[CheckpointStudent, CheckpointStudent]:
    (at / "solved").mkdir()
    repair(source, at / "pruned", windows, at / "solved", name="Tiny")
    return CheckpointStudent(at / "pruned"), CheckpointStudent(at / "solved")


def assert_solved(before: WeightSource, found: WeightSource, wanted: torch.nn.Module) -> None:
    """Every linear was changed as wanted."""
    for index in range(found.spec.depth):
        for part in LINEARS.values():
            name = f"{LAYER.format(i=index)}{part}.weight"
            hand = wanted.get_parameter(name).detach().numpy()
            change, error = np.linalg.norm(hand - before.read(name)), np.linalg.norm(hand - found.read(name))
            assert error <= 1e-3 * change + 1e-6, name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("gone", [(2,), (2, 3), (0, 3), (1, 5)])
@pytest.mark.parametrize("count", [3, 48])
def test_what_stays_between_gaps_is_solved_in_turn(
    family: str, gone: tuple[int, ...], count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the same walk in float64 by transformers' layers and numpy, λ and all; ours in batches of seven windows,
    the last of which is short.
    """
    monkeypatch.setattr(skeleton, "TOKENS_PER_BATCH", 7 * 40)
    source, windows = deep(family, tmp_path), WINDOWS[:count]
    before, found = shallower(source, gone, tmp_path, windows)
    whole, left = (load_model(each).double() for each in (source, before))
    wanted, changes = repaired_by_hand(whole, left, np.arange(64), windows, gone=gone)
    assert changes >= (2 if count == 48 else 1)
    assert_solved(before, found, wanted)


@pytest.mark.parametrize("what", STEPS)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_what_is_beside_the_missing_units_is_solved_in_turn(family: str, what: str, tmp_path: Path) -> None:
    """Against the same walk; shapes differ by layer, so by our loader."""
    before, found = narrower(family, what, tmp_path)
    whole, left = (load_model(each).double() for each in (open_student(str(tmp_path / "student")), before))
    wanted, changes = repaired_by_hand(whole, left, np.arange(64), WINDOWS)
    assert changes >= 2
    assert_solved(before, found, wanted)


def test_what_comes_before_the_first_gap_stays_as_it_is_but_for_what_fills_it(tmp_path: Path) -> None:
    source = deep("llama", tmp_path)
    before, found = shallower(source, (3,), tmp_path)
    first = [name for name in before.names if name.startswith(tuple(LAYER.format(i=index) for index in range(3)))]
    changed = [name for name in first if not np.array_equal(before.read(name), found.read(name))]
    assert changed == [f"{LAYER.format(i=2)}mlp.down_proj.weight"]
    vectors = [name for name in before.names if before.read(name).ndim == 1 or "embed" in name]
    assert len(vectors) == 12
    assert all(np.array_equal(before.read(name), found.read(name)) for name in vectors)


def test_layers_that_did_nothing_leave_nothing_to_repair(tmp_path: Path) -> None:
    directory = make_model_dir("llama", tmp_path / "student", num_hidden_layers=6)
    model = without(directory, ())
    with torch.no_grad():
        for part in ("self_attn.o_proj", "mlp.down_proj"):
            model.get_submodule(f"model.layers.3.{part}").weight.zero_()  # type: ignore[operator]
    model.save_pretrained(directory)  # type: ignore[operator]
    before, found = shallower(open_student(str(directory)), (3,), tmp_path)
    for name in before.names:
        np.testing.assert_allclose(found.read(name), before.read(name), atol=1e-6, err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shallower_model_comes_much_nearer_to_the_whole(family: str, tmp_path: Path) -> None:
    source = deep(family, tmp_path)
    whole = logits(load_model(source))
    before, after = (divergence(whole, logits(load_model(each))) for each in shallower(source, (2, 4), tmp_path))
    assert after < 0.7 * before


@pytest.mark.parametrize("what", STEPS)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_narrower_model_comes_nearer_and_keeps_its_shape(family: str, what: str, tmp_path: Path) -> None:
    pruned, found = narrower(family, what, tmp_path, uniform=family == "qwen2")
    whole = logits(load_model(open_student(str(tmp_path / "student"))))
    before, after = (divergence(whole, logits(load_model(each))) for each in (pruned, found))
    assert after < before
    assert (tmp_path / "solved" / REMOVED_FILE).read_bytes() == (tmp_path / "pruned" / REMOVED_FILE).read_bytes()
    assert found.spec == pruned.spec


def test_halves_bring_a_model_as_near_as_exact_products_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = deep("llama", tmp_path)
    whole, found = logits(load_model(source)), list[float]()
    for half in (False, True):
        monkeypatch.setattr(one_dnn, "has_native_bfloat16", lambda half=half: half)
        _, after = shallower(source, (2, 4), tmp_path / str(half))
        found.append(divergence(whole, logits(load_model(after))))
    assert found[0] != found[1] == pytest.approx(found[0], rel=0.02)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_little_text_does_not_make_it_worse(count: int, tmp_path: Path) -> None:
    """With one, two or three windows of calibration text a part is held out as well."""
    source = deep("llama", tmp_path)
    whole = logits(load_model(source))
    both = shallower(source, (2, 4), tmp_path, WINDOWS[:count])
    before, after = (divergence(whole, logits(load_model(each))) for each in both)
    assert after < 1.01 * before


def test_models_that_normalise_what_a_layer_adds_are_told_apart(tmp_path: Path) -> None:
    assert writes_directly(open_student(str(make_model_dir("llama", tmp_path / "llama"))))
    assert not writes_directly(open_student(str(make_model_dir("gemma3", tmp_path / "gemma3"))))


def test_a_stream_that_overflows_is_one_clear_line(tmp_path: Path) -> None:
    directory = make_model_dir("llama", tmp_path / "student", num_hidden_layers=6)
    model = without(directory, ())
    with torch.no_grad():
        model.get_submodule("model.layers.0.mlp.up_proj").weight.mul_(1e22)  # type: ignore[operator]
        model.get_submodule("model.layers.0.mlp.down_proj").weight.mul_(1e17)  # type: ignore[operator]
    model.save_pretrained(directory)  # type: ignore[operator]
    source = open_student(str(directory))
    with pytest.raises(InputError, match="not finite: the model overflows"):
        choose_layers(source, 1, WINDOWS)
    with pytest.raises(InputError, match="not finite: the model overflows"):
        shallower(source, (2,), tmp_path)


def test_attention_runs_once_in_each_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what costs most of a layer with long windows. Six layers and five, in batches of 7, 7 and 6 windows."""
    monkeypatch.setattr(skeleton, "TOKENS_PER_BATCH", 7 * 40)
    calls, attend = list[int](), torch.nn.functional.scaled_dot_product_attention

    def counted(query: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        calls.append(len(query))
        return attend(query, *arguments, **options)

    source = deep("llama", tmp_path)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    shallower(source, (0,), tmp_path, WINDOWS[:20])
    assert sorted(calls) == sorted((6 + 5) * [7, 7, 6])

"""Pruned models hold what the definitions ask for: masks, least squares, the original to the bit."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from tiny_models import make_model_dir
from transformers import AutoModelForCausalLM

from edgepress.artifact.families import LINEARS, layer_name
from edgepress.compress.prune import losses as losses_module
from edgepress.compress.prune.config import PruneFfn, PruneHeads
from edgepress.compress.prune.layers import prune_widths
from edgepress.compress.prune.losses import layer_losses
from edgepress.compress.prune.parts import WidthStep, layer_units, part_of
from edgepress.compress.prune.ridge import DAMPINGS
from edgepress.compress.student.checkpoint import CheckpointStudent
from edgepress.compress.student.open import open_student
from edgepress.runtime.torch_reference import load_model

WINDOWS = np.random.default_rng(0).integers(4, 300, (6, 40)).astype(np.int32)
STEPS: dict[str, WidthStep] = {
    "neurons": PruneFfn(keep=0.5),
    "heads": PruneHeads(keep=0.5),
    "groups": PruneHeads(keep=0.5, unit="groups"),
}


def pruned(
    source: Path, step: WidthStep, out: Path, counts: list[int], *, bias: bool = True, windows: np.ndarray = WINDOWS
) -> CheckpointStudent:
    out.mkdir()
    prune_widths(open_student(str(source)), step, counts, windows, out, name="Tiny", bias=bias)
    return CheckpointStudent(out)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(torch.from_numpy(WINDOWS.astype(np.int64))).logits
    return found


def half(source: Path, step: WidthStep) -> list[int]:
    student = open_student(str(source))
    counts = [layer_units(step, student.spec, layer).count // 2 for layer in student.spec.layers]
    if isinstance(step, PruneFfn):
        counts[0] += step.multiple_of  # layers that differ
    return counts


def kept_rows(before: np.ndarray, after: np.ndarray) -> list[int]:
    """Where the rows of ``after`` were in ``before``."""
    return [int(np.flatnonzero((before == row).all(axis=1))[0]) for row in after]


@pytest.mark.parametrize("unit", STEPS)
@pytest.mark.parametrize("method", ["obs", "flap", "wanda_sp", "activation", "magnitude"])
def test_without_repair_the_logits_are_those_of_the_masked_model(
    family_dir: Path, tmp_path: Path, unit: str, method: str
) -> None:
    step = msgspec.structs.replace(STEPS[unit], repair=False, method=method)
    found = pruned(family_dir, step, tmp_path / "out", half(family_dir, step))
    masked = AutoModelForCausalLM.from_pretrained(family_dir, dtype=torch.float32).eval()
    part, student = part_of(step), open_student(str(family_dir))
    reader, maker = LINEARS[part.reader], layer_name(0, LINEARS[part.makers[0]])
    for i in range(found.spec.depth):
        maker = layer_name(i, LINEARS[part.makers[0]])
        rows = kept_rows(student.read(maker), found.read(maker))
        linear = masked.get_submodule(layer_name(i, reader).removesuffix(".weight"))
        mask = torch.zeros(linear.weight.shape[1])
        mask[rows] = 1
        linear.weight.data *= mask
    assert found.spec != student.spec
    torch.testing.assert_close(logits(load_model(found)), logits(masked), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("unit", STEPS)
def test_keeping_everything_is_the_identity_to_the_bit(family_dir: Path, tmp_path: Path, unit: str) -> None:
    step, student = STEPS[unit], open_student(str(family_dir))
    counts = [layer_units(step, student.spec, layer).count for layer in student.spec.layers]
    found = pruned(family_dir, step, tmp_path / "out", counts)
    assert found.spec == student.spec
    assert sorted(found.names) == sorted(student.names)
    for name in student.names:
        np.testing.assert_array_equal(found.read(name).view(np.uint32), student.read(name).view(np.uint32))


@pytest.mark.parametrize("unit", STEPS)
def test_layers_in_front_of_the_first_that_loses_something_stay_to_the_bit(tmp_path: Path, unit: str) -> None:
    """But for the bias that all of a llama's layers have, or none."""
    source = make_model_dir("llama", tmp_path / "student", num_hidden_layers=3)
    student, step = open_student(str(source)), STEPS[unit]
    whole = layer_units(step, student.spec, student.spec.layers[0]).count
    found = pruned(source, step, tmp_path / "out", [whole, whole, whole // 2])
    for name in student.names:
        if not name.startswith("model.layers.2."):
            np.testing.assert_array_equal(found.read(name).view(np.uint32), student.read(name).view(np.uint32))
    added = [name for name in found.names if name not in student.names and not name.startswith("model.layers.2.")]
    assert len(added) == 2 * (1 + len(part_of(step).makers))
    assert all(not found.read(name).any() for name in added)
    assert not torch.equal(logits(load_model(found)), logits(load_model(student)))


def inputs_and_streams(model: torch.nn.Module, i: int) -> tuple[np.ndarray, np.ndarray]:
    """The inputs of layer i's down projection and what the layer leaves, float64, (tokens, columns)."""
    seen: dict[str, np.ndarray] = {}
    layer = model.get_submodule(f"model.layers.{i}")
    down = layer.get_submodule("mlp.down_proj").register_forward_pre_hook(
        lambda _, inputs: seen.__setitem__("inputs", inputs[0].double().flatten(0, 1).numpy())
    )
    end = layer.register_forward_hook(
        lambda _, inputs, output: seen.__setitem__(
            "stream", (output if isinstance(output, torch.Tensor) else output[0]).double().flatten(0, 1).numpy()
        )
    )
    logits(model)
    down.remove()
    end.remove()
    return seen["inputs"], seen["stream"]


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_repair_is_the_weighted_least_squares_fit_behind_the_pruned_prefix(family: str, tmp_path: Path) -> None:
    """llama may have a bias in its feed-forward layers, qwen2 may not."""
    source = make_model_dir(family, tmp_path / "student")
    found = pruned(source, STEPS["neurons"], tmp_path / "out", half(source, STEPS["neurons"]))
    student, original, after = open_student(str(source)), load_model(open_student(str(source))), load_model(found)
    for i in range(student.spec.depth):
        before, stream = inputs_and_streams(original, i)
        x, _ = inputs_and_streams(after, i)
        weight = student.read(layer_name(i, "mlp.down_proj")).astype(np.float64)
        rows = kept_rows(student.read(layer_name(i, "mlp.up_proj")), found.read(layer_name(i, "mlp.up_proj")))
        share, intercept = 1 / (stream**2).mean(axis=1), family == "llama"
        wanted, constant = best_rest(x, before @ weight.T, share, weight[:, rows], intercept=intercept)
        np.testing.assert_allclose(found.read(layer_name(i, "mlp.down_proj")), wanted, atol=2e-4)
        name = layer_name(i, "mlp.down_proj", "bias")
        assert (name in found.names) == intercept
        if intercept:
            np.testing.assert_allclose(found.read(name), constant, atol=2e-4)


def best_rest(
    x: np.ndarray, wanted: np.ndarray, share: np.ndarray, old: np.ndarray, *, intercept: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The weights of x for the wanted outputs and a constant, with the λ that loses least on every fourth window when
    it is solved on the others; the old ones, or both as they were, where these lose less.
    """
    held = np.repeat(np.arange(len(WINDOWS)) % 4 == 3, WINDOWS.shape[1])

    def solved(on: np.ndarray, damping: float | None) -> tuple[np.ndarray, np.ndarray]:
        weights = old
        if damping is not None:
            weights = fitted(x[on], wanted[on], share[on], old, damping, intercept=intercept)
        return weights, share[on] @ (wanted[on] - x[on] @ weights.T) / share[on].sum() * intercept

    def lost(weights: np.ndarray, constant: np.ndarray) -> float:
        return float(share[held] @ ((wanted[held] - x[held] @ weights.T - constant) ** 2).sum(axis=1))

    dampings = (None, *DAMPINGS)
    losses = [lost(*solved(~held, damping)) for damping in dampings]
    nothing = old, np.zeros(len(old))
    if lost(*nothing) <= min(losses):
        return nothing
    return solved(np.ones_like(held), dampings[int(np.argmin(losses))])


def fitted(
    x: np.ndarray, wanted: np.ndarray, share: np.ndarray, old: np.ndarray, damping: float, *, intercept: bool
) -> np.ndarray:
    """By numpy's least squares; λ pulls towards the old weights: rows that ask for them."""
    share = share / share.sum()
    x, wanted = x - (share @ x) * intercept, wanted - (share @ wanted) * intercept
    pull = np.sqrt(damping * (share @ x**2).mean()) * np.eye(x.shape[1])
    left = np.vstack([np.sqrt(share)[:, None] * x, pull])
    found: np.ndarray = np.linalg.lstsq(left, np.vstack([np.sqrt(share)[:, None] * wanted, pull @ old.T]), rcond=None)[
        0
    ]
    return found.T


@pytest.mark.parametrize("unit", STEPS)
def test_repair_brings_the_logits_closer(llama_dir: Path, tmp_path: Path, unit: str) -> None:
    text = np.random.default_rng(5).integers(4, 300, (48, 40)).astype(np.int32)
    assert repaired_over_plain(llama_dir, unit, text, tmp_path) < 0.9


@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize("unit", STEPS)
def test_little_text_does_not_make_it_worse(unit: str, count: int, llama_dir: Path, tmp_path: Path) -> None:
    """Of fewer tokens than a linear has inputs, or hardly more."""
    text = np.random.default_rng(6).integers(4, 300, (count, 32)).astype(np.int32)
    assert repaired_over_plain(llama_dir, unit, text, tmp_path) < 1.05


def repaired_over_plain(source: Path, unit: str, text: np.ndarray, at: Path) -> float:
    """How far logits of other text are off with the repair, by how far they are without."""
    errors, wanted = [], logits(load_model(open_student(str(source))))
    for repair in (False, True):
        step = msgspec.structs.replace(STEPS[unit], repair=repair)
        found = pruned(source, step, at / str(repair), half(source, step), windows=text)
        errors.append(float((logits(load_model(found)) - wanted).square().mean()))
    return errors[1] / errors[0]


def test_every_step_of_a_path_has_its_loss_and_none_is_gained_back(llama_dir: Path) -> None:
    student = open_student(str(llama_dir))
    losses = layer_losses(student, STEPS["neurons"], WINDOWS, [32, 32], intercept=True, seed=0)
    assert all(row[0] == 0 and row == sorted(row) and len(row) == 4 for row in losses)


def test_losses_are_of_windows_from_all_over_the_text(llama_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is more of it than they look at."""
    step = PruneFfn(keep=0.5, method="activation")
    losses = partial(layer_losses, open_student(str(llama_dir)), step, least=[32, 32], intercept=True, seed=0)
    whole, spread = losses(WINDOWS), losses(WINDOWS[[0, 2, 5]])
    monkeypatch.setattr(losses_module, "LOSS_TOKENS", 3 * 40 + 39)
    assert losses(WINDOWS) == spread != whole


@pytest.mark.parametrize("unit", STEPS)
def test_text_of_one_token_prunes_like_any_other(unit: str, llama_dir: Path, tmp_path: Path) -> None:
    """Inputs that never vary leave variances that rounding made, some of them below zero."""
    windows = np.full((4, 16), 7, np.int32)
    found = pruned(llama_dir, STEPS[unit], tmp_path / "out", half(llama_dir, STEPS[unit]), windows=windows)
    assert all(np.isfinite(found.read(name)).all() for name in found.names)
    with torch.inference_mode():
        tokens = torch.from_numpy(windows[:1].astype(np.int64))
        own, whole = (load_model(each)(tokens).logits for each in (found, open_student(str(llama_dir))))
    torch.testing.assert_close(own, whole, rtol=0.05, atol=0.05)  # one input, and a constant that makes up for the rest

"""Pruned models hold what the definitions ask for: masks, least squares, the original to the bit."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from tiny_models import make_model_dir
from transformers import AutoModelForCausalLM

from edgepress.artifact.families import LINEARS, layer_name
from edgepress.compress.prune.config import PruneFfn, PruneHeads
from edgepress.compress.prune.layers import prune_widths
from edgepress.compress.prune.losses import layer_losses
from edgepress.compress.prune.obs import DAMPING
from edgepress.compress.prune.parts import WidthStep, layer_units, part_of
from edgepress.compress.student.checkpoint import CheckpointStudent
from edgepress.compress.student.open import open_student
from edgepress.compress.student.student import Student
from edgepress.runtime.torch_reference import load_model

WINDOWS = np.random.default_rng(0).integers(4, 300, (6, 40)).astype(np.int32)
STEPS: dict[str, WidthStep] = {
    "neurons": PruneFfn(keep=0.5),
    "heads": PruneHeads(keep=0.5),
    "groups": PruneHeads(keep=0.5, unit="groups"),
}


def pruned(source: Path, step: WidthStep, out: Path, counts: list[int], *, bias: bool = True) -> CheckpointStudent:
    out.mkdir()
    prune_widths(open_student(str(source)), step, counts, WINDOWS, out, name="Tiny", bias=bias)
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
        share = 1 / (stream**2).mean(axis=1)
        share /= share.sum()
        all_x = full_inputs(student, after, i)
        mean = share @ x if family == "llama" else np.zeros(x.shape[1])
        target = before @ weight.T - weight_mean(before, weight, share, family)
        centred = x - mean
        variance = (share @ (all_x - (share @ all_x if family == "llama" else 0)) ** 2).mean()
        damping = np.sqrt(DAMPING * variance) * np.eye(len(rows))
        # λ pulls towards the old weights: rows that ask for them.
        left = np.vstack([np.sqrt(share)[:, None] * centred, damping])
        right = np.vstack([np.sqrt(share)[:, None] * target, damping @ weight[:, rows].T])
        wanted = np.linalg.lstsq(left, right, rcond=None)[0].T
        np.testing.assert_allclose(found.read(layer_name(i, "mlp.down_proj")), wanted, atol=2e-4)
        name = layer_name(i, "mlp.down_proj", "bias")
        assert (name in found.names) == (family == "llama")
        if family == "llama":
            constant = share @ before @ weight.T - wanted @ mean
            np.testing.assert_allclose(found.read(name), constant, atol=2e-4)


def weight_mean(before: np.ndarray, weight: np.ndarray, share: np.ndarray, family: str) -> np.ndarray:
    return weight @ (share @ before) if family == "llama" else np.zeros(len(weight))


def full_inputs(student: Student, after: torch.nn.Module, i: int) -> np.ndarray:
    """What all neurons of the original's layer i would put out behind the pruned layers before it."""
    layer, seen = after.get_submodule(f"model.layers.{i}"), []
    handle = layer.get_submodule("mlp.gate_proj").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    logits(after)
    handle.remove()
    gate, up = (torch.from_numpy(student.read(layer_name(i, f"mlp.{part}_proj"))) for part in ("gate", "up"))
    outputs: np.ndarray = (torch.nn.functional.silu(seen[0] @ gate.T) * (seen[0] @ up.T)).double().flatten(0, 1).numpy()
    return outputs


@pytest.mark.parametrize("unit", STEPS)
def test_repair_brings_the_logits_closer(llama_dir: Path, tmp_path: Path, unit: str) -> None:
    source, errors = llama_dir, []
    wanted = logits(load_model(open_student(str(source))))
    for repair in (False, True):
        step = msgspec.structs.replace(STEPS[unit], repair=repair)
        found = logits(load_model(pruned(source, step, tmp_path / str(repair), half(source, step))))
        errors.append(float((found - wanted).square().mean()))
    assert errors[1] < 0.8 * errors[0]


def test_every_step_of_a_path_has_its_loss_and_none_is_gained_back(llama_dir: Path) -> None:
    student = open_student(str(llama_dir))
    losses = layer_losses(student, STEPS["neurons"], WINDOWS, [32, 32], intercept=True, seed=0)
    assert all(row[0] == 0 and row == sorted(row) and len(row) == 4 for row in losses)

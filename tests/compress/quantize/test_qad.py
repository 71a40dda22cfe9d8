"""Distillation through the grids: gradients by hand, values that ship, and never a worse model than at the start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from layer_inputs import weights
from one_core import one_core  # noqa: F401
from tiny_models import make_model_dir

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import EMBEDDING
from edgepress.artifact.formats import FORMATS, get_format
from edgepress.compress.quantize.assign import assign_formats
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.quantize.gptaq.grid import Grid
from edgepress.compress.quantize.layers import quantize_model
from edgepress.compress.quantize.qad.distill import distill_through_grids
from edgepress.compress.quantize.qad.loss import divergence_and_gradient
from edgepress.compress.quantize.qad.model import TrainedModel
from edgepress.compress.quantize.qad.straight_through import grid_values
from edgepress.compress.quantize.qad.trainable import TrainableTensor
from edgepress.compress.quantize.solve import quantize_matrix
from edgepress.compress.search.divergence import Divergence, final_states
from edgepress.compress.student.open import open_student

pytestmark = pytest.mark.usefixtures("one_core")
GRIDS = [name for name, spec in FORMATS.items() if spec.kind != "float"]
ROWS, COLUMNS = 6, 256


def solved(format: str, seed: int = 0) -> tuple[TrainableTensor, np.ndarray]:
    weight = weights(ROWS, COLUMNS, seed)
    start = quantize_matrix(weight, format, "scale_search", None)
    return TrainableTensor(start, weight), start.dequantize()


@pytest.mark.parametrize("format", GRIDS)
def test_training_starts_at_the_values_that_ship(format: str) -> None:
    tensor, values = solved(format)
    np.testing.assert_array_equal(tensor.values().detach().numpy(), values)
    np.testing.assert_array_equal(tensor.finish().dequantize(), values)


@pytest.mark.parametrize("format", GRIDS)
def test_what_is_trained_is_what_is_stored(format: str) -> None:
    tensor, values = solved(format)
    rng = np.random.default_rng(3)
    with torch.no_grad():
        for parameter in tensor.parameters():
            step = 2 * tensor.gap if parameter is tensor.codes else 0.1
            noise = torch.from_numpy(rng.standard_normal(tuple(parameter.shape)).astype(np.float32))
            parameter.add_(step * noise)
    stored = tensor.finish().dequantize()
    np.testing.assert_allclose(stored, tensor.values().detach().numpy(), rtol=1e-6, atol=1e-9)
    assert not np.array_equal(stored, values)


@pytest.mark.parametrize("format", ["q4_0", "iq4_nl"])
def test_a_code_feels_its_scale_inside_the_grid_and_nothing_far_outside(format: str) -> None:
    grid = Grid(get_format(format))
    codes = torch.tensor([[grid.low - 50, grid.low, 0.2, grid.high, grid.high + 50, 1.0]], requires_grad=True)
    values = grid_values(codes, torch.tensor([[3.0]]), torch.tensor([[0.5]]), grid)
    torch.autograd.backward(values, torch.arange(6.0)[None] + 1)
    assert codes.grad is not None
    assert codes.grad.tolist() == [[0.0, 6.0, 9.0, 12.0, 0.0, 18.0]]


@pytest.mark.parametrize("format", ["q4_1", "iq4_nl", "q5_0"])
def test_scales_and_minima_have_the_gradient_of_the_difference_quotient(format: str) -> None:
    grid, generator = Grid(get_format(format)), torch.Generator().manual_seed(0)
    codes = grid.levels[torch.randint(len(grid.levels), (3, 64), generator=generator)] + 0.1
    scale, minimum = torch.rand(3, 2, generator=generator) + 0.5, torch.rand(3, 2, generator=generator)
    weight = torch.randn(3, 64, generator=generator)

    def loss(scale: torch.Tensor, minimum: torch.Tensor) -> torch.Tensor:
        return (grid_values(codes, scale, minimum, grid) * weight).sum()

    scale.requires_grad_(True), minimum.requires_grad_(True)
    torch.autograd.backward(loss(scale, minimum))
    for parameter in (scale, minimum):
        direction = torch.randn(3, 2, generator=generator)
        moved = [
            loss(*(p + sign * direction if p is parameter else p for p in (scale, minimum))).item() for sign in (-1, 1)
        ]
        assert parameter.grad is not None
        assert (moved[1] - moved[0]) / 2 == pytest.approx(float((parameter.grad * direction).sum()), rel=1e-3)


@pytest.mark.parametrize("format", GRIDS)
def test_gains_have_the_gradient_of_the_difference_quotient(format: str) -> None:
    """The values are linear in the gains, super scales' included, but for fp16's rounding: a wide quotient is exact."""
    tensor, _ = solved(format)
    rng = np.random.default_rng(4)
    pull = torch.from_numpy(rng.standard_normal((ROWS, COLUMNS)).astype(np.float32))
    torch.autograd.backward((tensor.values() * pull).sum())
    for gain in (tensor.gain, tensor.offset_gain):
        if gain is None:
            continue
        assert gain.grad is not None
        step = torch.from_numpy(rng.uniform(-0.25, 0.25, tuple(gain.shape)).astype(np.float32))
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                gain.add_(sign * step)
                ends.append(float((tensor.values().double() * pull).sum()))
                gain.sub_(sign * step)
        terms = gain.grad.double() * step
        assert float(terms.sum()) == pytest.approx((ends[0] - ends[1]) / 2, abs=0.003 * float(terms.norm()))


def test_the_divergence_and_its_gradient_are_those_of_autograd_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, before = (torch.randn(300, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    head, original = (torch.randn(40, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    leaf = hidden.clone().requires_grad_(True)
    wanted, reached = torch.log_softmax(before @ original.T, -1), torch.log_softmax(leaf @ head.T, -1)
    exact = torch.nn.functional.kl_div(reached, wanted, log_target=True, reduction="batchmean")
    exact.backward()  # type: ignore[no-untyped-call]
    found, gradient = divergence_and_gradient(hidden, head, before, original)
    assert found == pytest.approx(exact.item(), rel=1e-9)
    assert leaf.grad is not None
    torch.testing.assert_close(gradient, leaf.grad)


def checkpoint(student_dir: Path, directory: Path, **step: str) -> Checkpoint:
    student = open_student(str(student_dir))
    chosen = QuantizeStep(solver="nearest", **step)  # type: ignore[arg-type]
    directory.mkdir()
    quantize_model(student, chosen, assign_formats(student, chosen), None, directory, name="tiny")
    return Checkpoint(directory)


def text(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 250, (count, 32)).astype(np.int32)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3"])
def test_gradients_in_the_codes_are_those_of_transformers_own_model(family: str, tmp_path: Path) -> None:
    """d loss / d code = d loss / d weight · scale, the former by autograd through a model that knows no grids."""
    from transformers import AutoModelForCausalLM

    student_dir = make_model_dir(family, tmp_path / "student")
    student, start = open_student(str(student_dir)), checkpoint(student_dir, tmp_path / "solved", format="q4_0")
    windows = text(4, 0)
    ids = torch.from_numpy(windows.astype(np.int64))
    model = TrainedModel(student, start)
    found = model.descend(ids, final_states(student, windows))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "solved", dtype=torch.float32)
    with torch.no_grad():
        wanted = AutoModelForCausalLM.from_pretrained(student_dir, dtype=torch.float32)(ids).logits
    logits = torch.log_softmax(plain(ids).logits, -1).flatten(0, 1)
    exact = torch.nn.functional.kl_div(
        logits, torch.log_softmax(wanted, -1).flatten(0, 1), log_target=True, reduction="batchmean"
    )
    exact.backward()  # type: ignore[no-untyped-call]
    assert found == pytest.approx(exact.item(), rel=0.1)  # training may multiply in bfloat16
    for name, parameter in plain.named_parameters():
        if name in model.tensors:
            tensor = model.tensors[name]
            assert tensor.codes.grad is not None and parameter.grad is not None
            scale = tensor.gain.detach() * torch.from_numpy(start.quantized(name).step())  # type: ignore[union-attr]
            expected = (parameter.grad.view(*scale.shape, -1) * scale[..., None]).flatten()
            likeness = torch.nn.functional.cosine_similarity(expected, tensor.codes.grad.flatten(), 0)
            assert likeness > 0.97, name
        elif name in model.gains:
            gradient = model.gains[name].grad
            assert gradient is not None and parameter.grad is not None
            expected = parameter.grad * parameter.detach()
            assert torch.nn.functional.cosine_similarity(expected, gradient, 0) > 0.97, name


def divergence(student_dir: Path, found: Checkpoint, windows: np.ndarray) -> float:
    return Divergence(open_student(str(student_dir)), windows).of(lambda name, _values: found.read(name))


@pytest.mark.parametrize("format", ["q4_0", "iq4_nl", "q4_1"])
def test_training_lowers_the_divergence_on_other_text_and_stays_on_the_grid(
    llama_dir: Path, tmp_path: Path, format: str
) -> None:
    start, out = checkpoint(llama_dir, tmp_path / "solved", format=format), tmp_path / "out"
    out.mkdir()
    distill_through_grids(
        open_student(str(llama_dir)), start, text(192, 1), text(8, 2), out, tokens=60000, seed=0, rates=(0.03, 3e-3)
    )
    better = Checkpoint(out)
    assert divergence(llama_dir, better, text(16, 3)) < 0.9 * divergence(llama_dir, start, text(16, 3))
    assert [tensor.shape for tensor in better.plan().tensors] == [tensor.shape for tensor in start.plan().tensors]
    for name in start.names:
        assert better.format(name) == start.format(name)
        stored = better.quantized(name)
        if stored is not None:
            np.testing.assert_array_equal(stored.dequantize(), better.read(name))
    np.testing.assert_array_equal(better.read(EMBEDDING), start.read(EMBEDDING))


def test_training_that_only_did_harm_leaves_the_model_as_it_was(llama_dir: Path, tmp_path: Path) -> None:
    start, out = checkpoint(llama_dir, tmp_path / "solved", format="q5_0"), tmp_path / "out"
    out.mkdir()
    record = distill_through_grids(
        open_student(str(llama_dir)), start, text(16, 1), text(8, 2), out, tokens=4400, seed=0, rates=(5.0, 0.5)
    )
    assert record.tokens == 8 * 16 * 32  # whole batches
    assert min(found for _, found in record.held_out[1:]) > record.held_out[0][1]
    for name in start.names:
        np.testing.assert_array_equal(Checkpoint(out).read(name), start.read(name))

"""A block is trained for what is wanted of it, by weights of its tokens, and only where held-out tokens gain by it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from dropped_layers import divergence, logits
from repaired_by_hand import run, solve_for
from tiny_models import make_model_dir

from edgepress.artifact.families import layer_name
from edgepress.compress.calibrate import one_dnn
from edgepress.compress.prune import reconstruct as reconstruction
from edgepress.compress.prune.config import PruneFfn
from edgepress.compress.prune.layers import prune_widths
from edgepress.compress.prune.reconstruct import Wanted, loss, reconstruct
from edgepress.compress.prune.repair import repair
from edgepress.compress.student.checkpoint import CheckpointStudent
from edgepress.compress.student.open import open_student
from edgepress.runtime.torch_reference import load_model

NAMES = ("gate.weight", "up.weight", "down.weight")
TOKENS, WIDTH, NEURONS = 8192, 16, 24


class Block(torch.nn.Module):
    def __init__(self, neurons: int, generator: torch.Generator) -> None:
        super().__init__()
        self.gate, self.up = (torch.nn.Linear(WIDTH, neurons, bias=False) for _ in range(2))
        self.down = torch.nn.Linear(neurons, WIDTH)
        for parameter in self.parameters():
            scale = parameter.shape[-1] ** -0.5
            parameter.data = scale * torch.randn(parameter.shape, generator=generator)
            parameter.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.down(torch.nn.functional.silu(self.gate(x)) * self.up(x))
        return found


def toy(seed: int = 0) -> tuple[Block, Wanted, torch.Tensor]:
    """A block without a third of its neurons, what the whole one does, and every fourth window of 64 tokens."""
    generator = torch.Generator().manual_seed(seed)
    whole, left = Block(NEURONS, generator), Block(NEURONS * 2 // 3, generator)
    for name in ("gate", "up"):
        left.get_parameter(f"{name}.weight").data = (
            whole.get_parameter(f"{name}.weight").data[: NEURONS * 2 // 3].clone()
        )
    left.down.weight.data = whole.down.weight.data[:, : NEURONS * 2 // 3].clone()
    left.down.bias.data = whole.down.bias.clone()
    x = torch.randn(TOKENS, WIDTH, generator=generator)
    weights = torch.rand(TOKENS, 1, generator=generator)
    return left, Wanted(x, whole(x), weights), torch.arange(TOKENS) // 64 % 4 == 3


def trained_loss(block: Block, weights: Sequence[torch.Tensor], wanted: Wanted, tokens: torch.Tensor) -> float:
    """In float64, by the block's definition."""
    x, m, w = (each[tokens].double() for each in (wanted.inputs, wanted.outputs, wanted.weights))
    gate, up, down = (each.double() for each in weights)
    outputs = torch.nn.functional.silu(x @ gate.T) * (x @ up.T) @ down.T + block.down.bias.double()
    return float((w * (m - outputs).square()).sum() / (w * m.square()).sum())


def solve_last(block: Block, wanted: Wanted) -> None:
    """The best last matrix for the others as they are, in float64."""
    x, m, w = (each.double() for each in (wanted.inputs, wanted.outputs, wanted.weights))
    gate, up = block.gate.weight.double(), block.up.weight.double()
    neurons = torch.nn.functional.silu(x @ gate.T) * (x @ up.T) * w.sqrt()
    rest = (m - block.down.bias.double()) * w.sqrt()
    block.down.weight.data = torch.linalg.lstsq(neurons, rest).solution.T.float()


def test_all_matrices_together_do_better_than_the_best_last_one() -> None:
    block, wanted, held_out = toy()
    solve_last(block, wanted)
    least_squares = trained_loss(block, [block.get_parameter(name) for name in NAMES], wanted, held_out)
    found = reconstruct(block, NAMES, wanted, held_out)
    assert trained_loss(block, found, wanted, held_out) < 0.9 * least_squares


def test_the_loss_is_the_weighted_share_of_what_is_wanted() -> None:
    block, wanted, held_out = toy()
    weights = [block.get_parameter(name) for name in NAMES]
    found = loss(block, dict(zip(NAMES, weights, strict=True)), wanted, held_out.nonzero().flatten())
    assert found == pytest.approx(trained_loss(block, weights, wanted, held_out), rel=2e-2)


def test_the_block_stays_as_it_is_and_the_same_comes_out_again() -> None:
    block, wanted, held_out = toy()
    before = {name: value.clone() for name, value in block.named_parameters()}
    first, second = (reconstruct(block, NAMES, wanted, held_out) for _ in range(2))
    assert all(torch.equal(value, before[name]) for name, value in block.named_parameters())
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_tokens_that_weigh_nothing_are_not_looked_at() -> None:
    block, wanted, held_out = toy()
    light = torch.arange(TOKENS) % 5 == 0
    wanted.weights[light] = 0
    clean = reconstruct(block, NAMES, wanted, held_out)
    wanted.outputs[light] += 100
    assert all(
        torch.equal(one, other) for one, other in zip(clean, reconstruct(block, NAMES, wanted, held_out), strict=True)
    )


def test_held_out_tokens_are_not_trained_on() -> None:
    """Something else is wanted of them: what is learnt makes them worse, so the start is kept, to the bit."""
    block, wanted, held_out = toy()
    with torch.no_grad():
        wanted.outputs[held_out] = block(wanted.inputs[held_out]) * 1.01
    found = reconstruct(block, NAMES, wanted, held_out)
    assert all(torch.equal(one, block.get_parameter(name)) for one, name in zip(found, NAMES, strict=True))


def test_what_is_wanted_of_held_out_tokens_changes_nothing_that_is_learnt() -> None:
    block, wanted, held_out = toy()
    first = reconstruct(block, NAMES, wanted, held_out)
    wanted.outputs[held_out] *= 1.05
    second = reconstruct(block, NAMES, wanted, held_out)
    assert not torch.equal(first[0], block.gate.weight)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("trained", [0, 1, 40])
def test_text_that_is_too_little_to_learn_from_does_no_harm(trained: int) -> None:
    block, wanted, _ = toy()
    generator = torch.Generator().manual_seed(9)
    noisy = Wanted(wanted.inputs, torch.randn(TOKENS, WIDTH, generator=generator), wanted.weights)
    held_out = torch.arange(TOKENS) >= trained
    before = trained_loss(block, [block.get_parameter(name) for name in NAMES], noisy, held_out)
    assert trained_loss(block, reconstruct(block, NAMES, noisy, held_out), noisy, held_out) <= 1.001 * before


@pytest.mark.parametrize(
    ("samples", "length", "widest", "kept"),
    [
        (128, 512, 1536, 32),
        (128, 512, 4096, 80),
        (16, 512, 1536, 16),
        (128, 512, 9000, 128),
        (600, 48, 64, 342),
        (64, 8192, 1536, 8),
    ],
)
def test_a_start_takes_ten_tokens_a_neuron_and_no_fewer_than_16384_from_all_over_the_text(
    samples: int, length: int, widest: int, kept: int
) -> None:
    windows = np.arange(samples * length, dtype=np.int32).reshape(samples, length)
    found = reconstruction.windows_to_start(windows, widest)
    assert len(found) == kept
    places = found[:, 0] // length
    assert places[0] == 0 and places[-1] == samples - 1 and np.diff(places).max() - np.diff(places).min() <= 1
    assert np.array_equal(found, windows[places])


def text(windows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(4, 300, (windows, 40)).astype(np.int32)


def solved_and_trained(source: Path, at: Path, windows: np.ndarray) -> list[CheckpointStudent]:
    student, found = open_student(str(source)), []
    for trains in (False, True):
        out = at / str(trains)
        out.mkdir()
        repair(student, at / "pruned", windows, out, name="Tiny", trains=trains)
        found.append(CheckpointStudent(out))
    return found


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_narrower_model_comes_nearer_on_other_text(family: str, tmp_path: Path) -> None:
    source = make_model_dir(family, tmp_path / "student", num_hidden_layers=3)
    student, windows = open_student(str(source)), text(96, 1)
    (tmp_path / "pruned").mkdir()
    widths = [layer.ffn for layer in student.spec.layers]
    counts = [widths[0], widths[1] // 2, widths[2]]
    prune_widths(student, PruneFfn(keep=0.5), counts, windows, tmp_path / "pruned", name="Tiny", bias=True)
    whole = logits(load_model(student))
    found = solved_and_trained(source, tmp_path, windows)
    solved, trained = (divergence(whole, logits(load_model(each))) for each in found)
    assert trained < 0.985 * solved
    changed = [name for name in found[0].names if not np.array_equal(found[0].read(name), found[1].read(name))]
    makers = [layer_name(1, f"mlp.{part}_proj") for part in ("gate", "up")]
    assert set(makers) <= set(changed)
    assert not any(name.startswith("model.layers.0.") for name in changed)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_halves_bring_it_as_near_as_exact_products_do(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the layers, of what is trained, and of the walk that chooses the neurons."""
    source, found = make_model_dir(family, tmp_path / "student", num_hidden_layers=3), list[float]()
    student, windows = open_student(str(source)), text(96, 1)
    counts = [layer.ffn // 2 for layer in student.spec.layers]
    for half in (False, True):
        for module in (one_dnn, reconstruction):
            monkeypatch.setattr(module, "has_native_bfloat16", lambda half=half: half)
        at = tmp_path / str(half)
        (at / "pruned").mkdir(parents=True)
        prune_widths(student, PruneFfn(keep=0.5), counts, windows, at / "pruned", name="Tiny", bias=True)
        trained = solved_and_trained(source, at, windows)[1]
        found.append(divergence(logits(load_model(student)), logits(load_model(trained))))
    assert found[0] != found[1] == pytest.approx(found[0], rel=0.05)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_the_target_is_the_whole_block_on_what_the_pruned_layers_before_leave(family: str, tmp_path: Path) -> None:
    """By transformers' layers in float64: the attention of the model that came out is what stood there by then."""
    source = make_model_dir(family, tmp_path / "student", num_hidden_layers=3)
    student, windows = open_student(str(source)), text(96, 1)
    (tmp_path / "pruned").mkdir()
    counts = [layer.ffn // 2 for layer in student.spec.layers]
    prune_widths(student, PruneFfn(keep=0.5), counts, windows, tmp_path / "pruned", name="Tiny", bias=False)
    trained = solved_and_trained(source, tmp_path, windows)[1]
    models = student, CheckpointStudent(tmp_path / "pruned"), trained
    whole, start, found = (load_model(each).double() for each in models)
    block = start.get_submodule("model.layers.1.mlp").requires_grad_(False)
    inputs, outputs, stream = run(found, 1, ("mlp",), windows)
    with torch.no_grad():
        target = whole.get_submodule("model.layers.1.mlp")(inputs)
        weights = 1 / (stream - outputs + target).square().mean(-1, keepdim=True)
    wanted = Wanted(*(each.float().flatten(0, 1) for each in (inputs, target, weights)))
    held_out = (torch.arange(96) % 8 == 7).repeat_interleave(40)
    names = [f"{part}_proj.weight" for part in ("gate", "up", "down")]
    by_hand = dict(zip(names, reconstruct(block.float(), tuple(names), wanted, held_out), strict=True))
    outputs_of_it, inputs_of_it = by_hand[names[2]].shape
    down = torch.nn.Linear(inputs_of_it, outputs_of_it, bias=False).double()
    down.weight.data = by_hand[names[2]].double()
    neurons = run(found, 1, ("mlp.down_proj",), windows)[0]
    behind = run(whole, 1, ("mlp",), windows)[2]
    missing = behind - (stream - outputs) - down(neurons)
    assert solve_for([down], neurons, missing.detach(), 1 / behind.square().mean(-1, keepdim=True), 8)
    by_hand[names[2]] = down.weight.detach()
    for name in names:
        ours, before = (each.get_parameter(f"model.layers.1.mlp.{name}").double() for each in (found, start))
        error, change = (ours - by_hand[name]).norm(), (by_hand[name] - before).norm()
        assert float(error) < 0.1 * float(change), name

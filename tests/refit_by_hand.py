"""The repair of a model without some layers, in float64 by transformers' own layers and numpy's solver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM

WRITERS = ("self_attn.o_proj", "mlp.down_proj")
DAMPINGS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
Weights = dict[tuple[int, str], np.ndarray]


def refit_by_hand(directory: Path, gone: tuple[int, ...], windows: np.ndarray) -> tuple[Weights, int]:
    """Weights of every writer by layer and part, and how many of them were changed."""
    whole, left = (load(directory) for _ in range(2))
    stream = Recorder(whole, windows)
    hidden, parted, changes = stream.before[0], False, 0
    found: Weights = {}
    stays = [index for index in range(len(stream.before)) if index not in gone]
    for place, index in enumerate(stays):
        until = stays[place + 1] if place + 1 < len(stays) else len(stream.before)
        layer: Any = left.get_submodule(f"model.layers.{index}")
        parted |= index > 0 and index - 1 in gone
        if parted:
            wanted = stream.before[index] + stream.written[index, WRITERS[0]]
            read, written, _ = run(layer, stream.arguments[index], hidden, WRITERS[0])
            changes += solve(layer.self_attn.o_proj, read, wanted - hidden - written, wanted)
        parted |= until > index + 1
        if parted:
            wanted = stream.behind[until - 1]
            read, _, behind = run(layer, stream.arguments[index], hidden, WRITERS[1])
            changes += solve(layer.mlp.down_proj, read, wanted - behind, wanted)
        hidden = run(layer, stream.arguments[index], hidden, WRITERS[1])[2]
        for part in WRITERS:
            found[index, part] = layer.get_submodule(part).weight.detach().numpy()
    return found, changes


def load(directory: Path) -> nn.Module:
    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float64, attn_implementation="eager"
    ).eval()
    return model


class Recorder:
    """The stream before and behind every layer of a model, what its writers write, and what its layers are told."""

    def __init__(self, model: nn.Module, windows: np.ndarray) -> None:
        self.before: dict[int, torch.Tensor] = {}
        self.behind: dict[int, torch.Tensor] = {}
        self.written: dict[tuple[int, str], torch.Tensor] = {}
        self.arguments: dict[int, dict[str, Any]] = {}
        for index, layer in enumerate(model.get_submodule("model.layers").children()):
            layer.register_forward_pre_hook(self._enters(index), with_kwargs=True)
            layer.register_forward_hook(self._leaves(index))
            layer.get_submodule(WRITERS[0]).register_forward_hook(self._writes(index))
        with torch.no_grad():
            model(torch.from_numpy(windows.astype(np.int64)), use_cache=False)

    def _enters(self, index: int) -> Any:
        def hook(_layer: nn.Module, inputs: tuple[torch.Tensor], told: dict[str, Any]) -> None:
            self.before[index], self.arguments[index] = inputs[0], told

        return hook

    def _leaves(self, index: int) -> Any:
        return lambda _layer, _inputs, out: self.behind.__setitem__(index, first(out))

    def _writes(self, index: int) -> Any:
        return lambda _layer, _inputs, out: self.written.__setitem__((index, WRITERS[0]), out)


def run(
    layer: nn.Module, told: dict[str, Any], hidden: torch.Tensor, part: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a writer reads and writes, and the stream behind the layer."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    handle = layer.get_submodule(part).register_forward_hook(lambda _m, i, o: seen.append((i[0], o)))
    with torch.no_grad():
        behind = first(layer(hidden, **told))
    handle.remove()
    return seen[0][0], seen[0][1], behind


def solve(linear: nn.Linear, read: torch.Tensor, missing: torch.Tensor, wanted: torch.Tensor) -> bool:
    """:func:`solve_for` a writer into the stream, each token counting by its share of it."""
    return solve_for([linear], read, missing, 1 / wanted.square().mean(-1, keepdim=True))


def solve_for(linears: list[Any], read: torch.Tensor, missing: torch.Tensor, weights: torch.Tensor) -> bool:
    """Add what a weighted regression of ``missing`` on ``read`` says, with the ridge that held-out windows ask for."""
    x, m = ((each * weights.sqrt()).numpy() for each in (read, missing))
    held = np.arange(len(x)) % 4 == 3 if len(x) > 3 else np.arange(len(x)) == len(x) - 1
    losses = {}
    for damping in DAMPINGS:
        rest = m[held] - x[held] @ ridge(x[~held], m[~held], damping)
        losses[damping] = np.sum(rest**2)
    best = min(DAMPINGS, key=lambda damping: losses[damping])
    if losses[best] >= np.sum(m[held] ** 2):
        return False
    change, start = torch.from_numpy(ridge(x, m, best)).T, 0
    for linear in linears:
        linear.weight.data += change[start : start + len(linear.weight)]
        start += len(linear.weight)
    return True


def ridge(x: np.ndarray, m: np.ndarray, damping: float) -> np.ndarray:
    x, m = x.reshape(-1, x.shape[-1]), m.reshape(-1, m.shape[-1])
    gram = x.T @ x
    found: np.ndarray = np.linalg.solve(gram + damping * np.trace(gram) / len(gram) * np.eye(len(gram)), x.T @ m)
    return found


def first(out: Any) -> torch.Tensor:
    return out if isinstance(out, torch.Tensor) else out[0]

"""The repair of what is left of a model, in float64 by transformers' own layers and numpy's solver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM

GROUPS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
DAMPINGS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def repaired_by_hand(
    whole: nn.Module,
    narrow: nn.Module,
    channels: np.ndarray,
    windows: np.ndarray,
    *,
    writers: bool = True,
    gone: tuple[int, ...] = (),
    deaf: tuple[int, ...] = (),
) -> tuple[nn.Module, int]:
    """``narrow``, its layers solved, and how many groups of linears were changed.

    Readers that have other outputs than the whole model's are left as they are. In front of a gap the stream that is
    wanted of a feed-forward is the one behind it. A layer that is ``deaf`` has no attention left.
    """
    kept, changes = torch.from_numpy(channels), 0
    depth = len(list(whole.get_submodule("model.layers").children()))
    stays = [index for index in range(depth) if index not in gone]
    for place, (index, until) in enumerate(zip(stays, (*stays[1:], depth), strict=True)):
        for group in GROUPS:
            if (len(group) == 1 and not writers) or (index in deaf and group[0].startswith("self_attn.")):
                continue
            _, outputs, stream = run(whole, index, group, windows)
            inputs, own, left = run(narrow, place, group, windows)
            if len(group) > 1 and outputs.shape != own.shape:
                continue
            if group == GROUPS[-1]:
                stream = run(whole, until - 1, group, windows)[2]
            if len(group) == 1:
                missing, weights = stream[..., kept] - left, 1 / stream.square().mean(-1, keepdim=True)
            else:
                missing, weights = outputs - own, torch.ones(*inputs.shape[:2], 1, dtype=torch.float64)
            layer = narrow.get_submodule(f"model.layers.{place}")
            changes += solve_for([layer.get_submodule(part) for part in group], inputs, missing, weights)
    return narrow, changes


def run(
    model: nn.Module, index: int, group: tuple[str, ...], windows: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of a whole pass through the model: the inputs of a group, its outputs, and the stream behind what it writes."""
    layer, seen = model.get_submodule(f"model.layers.{index}"), dict[str, Any]()
    handles = [
        layer.register_forward_pre_hook(lambda _m, i: seen.update(before=i[0])),
        layer.register_forward_hook(lambda _m, _i, o: seen.update(behind=o if isinstance(o, torch.Tensor) else o[0])),
    ]
    for part in group:
        handles.append(layer.get_submodule(part).register_forward_hook(_keep(seen, part)))
    with torch.no_grad():
        model(torch.from_numpy(windows.astype(np.int64)), use_cache=False)
    for handle in handles:
        handle.remove()
    outputs = torch.cat([seen[part][1] for part in group], -1)
    stream = seen["before"] + outputs if group == GROUPS[1] else seen["behind"]
    return seen[group[0]][0], outputs, stream


def _keep(seen: dict[str, Any], part: str) -> Any:
    return lambda _m, i, o: seen.__setitem__(part, (i[0], o))


def solve_for(
    linears: list[Any], read: torch.Tensor, missing: torch.Tensor, weights: torch.Tensor, every: int = 4
) -> bool:
    """Add what a weighted regression of ``missing`` on ``read`` says, with the ridge that held-out windows ask for."""
    x, m = ((each * weights.sqrt()).numpy() for each in (read, missing))
    held = np.arange(len(x)) % every == every - 1 if len(x) >= every else np.arange(len(x)) == len(x) - 1
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


def load(directory: Path) -> nn.Module:
    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float64, attn_implementation="eager"
    ).eval()
    return model

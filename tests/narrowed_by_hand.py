"""The repair of a model with fewer residual channels, in float64 by transformers' own layers and numpy's solver."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from refit_by_hand import solve_for
from torch import nn

GROUPS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)


def narrowed_by_hand(
    whole: nn.Module, narrow: nn.Module, channels: np.ndarray, windows: np.ndarray, *, writers: bool = True
) -> tuple[nn.Module, int]:
    """``narrow``, its layers solved, and how many groups of linears were changed.

    Readers that have other outputs than the whole model's are left as they are.
    """
    kept, changes = torch.from_numpy(channels), 0
    for index in range(len(list(whole.get_submodule("model.layers").children()))):
        for group in GROUPS:
            if len(group) == 1 and not writers:
                continue
            (_, outputs, stream), (inputs, own, left) = (run(m, index, group, windows) for m in (whole, narrow))
            if len(group) > 1 and outputs.shape != own.shape:
                continue
            if len(group) == 1:
                missing, weights = stream[..., kept] - left, 1 / stream.square().mean(-1, keepdim=True)
            else:
                missing, weights = outputs - own, torch.ones(*inputs.shape[:2], 1, dtype=torch.float64)
            layer = narrow.get_submodule(f"model.layers.{index}")
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

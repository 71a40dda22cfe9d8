"""A transformers model without some of its layers, and how far it is from the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

WINDOWS = np.random.default_rng(0).integers(4, 300, (4, 32)).astype(np.int32)


def logits(model: torch.nn.Module, windows: np.ndarray = WINDOWS) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(torch.from_numpy(windows.astype(np.int64))).logits.double()
    return found


def without(directory: Path, gone: tuple[int, ...]) -> torch.nn.Module:
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    kept = [layer for index, layer in enumerate(model.get_submodule("model.layers").children()) if index not in gone]
    for place, layer in enumerate(kept):
        layer.get_submodule("self_attn").layer_idx = place  # type: ignore[assignment]
    model.get_submodule("model").layers = torch.nn.ModuleList(kept)
    model.config.num_hidden_layers = len(kept)  # type: ignore[union-attr]
    return model


def divergence(original: torch.Tensor, other: torch.Tensor) -> float:
    p, q = torch.log_softmax(original, -1), torch.log_softmax(other, -1)
    return float((p.exp() * (p - q)).sum(-1).mean())

"""Low-rank adapters: of every matrix of the layers only a change of small rank is trained, and added to it at the end.

    W' = W + α/r B A        A: (r, in), B: (out, r), B = 0 at first, so that the student starts as it is
    ∂L/∂B = α/r (∂L/∂W') Aᵀ        ∂L/∂A = α/r Bᵀ (∂L/∂W')

W, the embedding, the head, norms and biases are frozen: neither their gradients nor moments take memory or time, and a
saved state holds A and B alone. Source: LoRA (arXiv 2106.09685), as peft has it. Where we depart: all seven matrices of
a layer have adapters, not those of attention alone (as QLoRA, arXiv 2305.14314, found to be needed), there is no
dropout, and what is left is a plain model: whatever comes next, rounding above all, sees W'.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edgepress.compress.distill.config import Lora
from edgepress.errors import require

_LAYERS = "model.layers"


def add_adapters(student: Any, lora: Lora, seed: int) -> None:
    """Freeze a student and give the linears of its layers adapters, which alone want a gradient.

    Args:
        student: transformers' causal language model; changed in place.
        lora: rank and scale.
        seed: of A; the random state of the caller stays.

    Raises:
        MissingExtraError: peft is not installed.
    """
    peft = require("peft", "compress")
    layers = student.get_submodule(_LAYERS)
    linears = [f"{_LAYERS}.{name}" for name, part in layers.named_modules() if isinstance(part, nn.Linear)]
    student.requires_grad_(False)
    config = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=linears)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, student)


@torch.no_grad()
def merge_adapters(student: Any) -> None:
    """Add each adapter to its matrix and take it away: a plain model again, with the outputs that it had.

    Args:
        student: what :func:`add_adapters` has changed; changed in place.
    """
    adapted = require("peft.tuners.lora", "compress").LoraLayer
    for name, layer in [(name, part) for name, part in student.named_modules() if isinstance(part, adapted)]:
        layer.merge()
        student.set_submodule(name, layer.get_base_layer())

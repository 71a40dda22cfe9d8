"""Whether multiplications are in bfloat16, which is 2-4 times as fast where a processor does so natively.

Of a teacher that moves its distributions by 0.0003 nats (SmolLM2), far below what a student is off by. Norms and
softmax stay in float32, and so do logits where they matter (:mod:`~edgepress.compress.distill.half_logits`), though not
their factors. Judging is always in float32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from edgepress.compress.calibrate.bfloat16 import has_native_bfloat16
from edgepress.compress.distill.config import Training

CPU = torch.device("cpu")


def in_bfloat16(training: Training, device: torch.device = CPU) -> bool:
    """What ``precision`` comes to on a device of this machine."""
    if training.precision != "auto":
        return False
    return has_native_bfloat16() if device.type == "cpu" else torch.cuda.is_bf16_supported(including_emulation=False)


def multiplying(in_bfloat16: bool, device: torch.device = CPU) -> AbstractContextManager[None]:
    """A context in which linear layers on a device multiply in bfloat16, or in their own precision."""
    context: AbstractContextManager[None] = torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16)
    return context

"""Whether multiplications are in bfloat16, which is 2-4 times as fast where the processor does so natively.

Of a teacher that moves its distributions by 0.0003 nats (SmolLM2), far below what a student is off by; norms, softmax
and the head's logits stay in float32. Judging is always in float32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from edgepress.compress.calibrate.self_generate import has_native_bfloat16
from edgepress.compress.distill.config import Training


def in_bfloat16(training: Training) -> bool:
    """What ``precision`` comes to on this machine."""
    return training.precision == "auto" and has_native_bfloat16()


def multiplying(in_bfloat16: bool) -> AbstractContextManager[None]:
    """A context in which linear layers multiply in bfloat16, or in their own precision."""
    context: AbstractContextManager[None] = torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16)
    return context

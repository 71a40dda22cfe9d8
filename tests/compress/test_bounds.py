"""Settings take finite numbers, and seeds that every generator holds."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from edgepress.compress.bounds import MOST_SEED
from edgepress.compress.calibrate.config import Calibration
from edgepress.compress.classify.config import ClassifierSettings
from edgepress.compress.distill.config import DistillStep, Lora, Loss, Training
from edgepress.compress.distill.gad.config import Adversarial, WarmUp

INFINITE: list[tuple[type, dict[str, Any]]] = [
    *((Loss, {name: np.inf}) for name in ("kl", "reverse_kl", "jsd", "hard_labels", "hidden", "temperature")),
    (Lora, {"alpha": np.inf}),
    (Training, {"rate": np.inf}),
    (Training, {"weight_decay": np.inf}),
    (DistillStep, {"step": "distill", "tokens": 1, "rate": np.inf}),
    *((Adversarial, {name: np.inf}) for name in ("rate", "discriminator_rate", "kl", "unfinished_penalty")),
    (WarmUp, {"rate": np.inf}),
    (WarmUp, {"passes": np.inf}),
    (WarmUp, {"passes": 1e6 + 1}),
    *((ClassifierSettings, {name: np.inf}) for name in ("ridge", "rate", "weight_decay")),
]


@pytest.mark.parametrize(("kind", "fields"), INFINITE)
def test_what_has_no_bound_is_refused(kind: type, fields: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError, match="Expected `float` <= "):
        msgspec.convert(fields, kind)
    finite = {name: 1.0 if value in (np.inf, 1e6 + 1) else value for name, value in fields.items()}
    msgspec.convert(finite, kind)


@pytest.mark.parametrize("kind", [Calibration, Training, Adversarial, ClassifierSettings])
def test_a_seed_and_the_next_one_are_what_generators_take(kind: Any) -> None:
    taken = msgspec.convert({"seed": MOST_SEED}, kind).seed
    np.random.default_rng((taken + 1, 0))
    torch.Generator().manual_seed(taken + 1)
    with pytest.raises(msgspec.ValidationError, match="seed"):
        msgspec.convert({"seed": MOST_SEED + 1}, kind)

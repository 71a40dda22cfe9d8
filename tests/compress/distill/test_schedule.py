"""The order of the text, the rates of the steps, and settings that do not go together."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest

from edgepress.compress.distill.config import Loss, Training, check_loss
from edgepress.compress.distill.train import hidden_weight, order, rate_factor
from edgepress.errors import InputError

COUNT = 10
TRAINING = Training(
    tokens=384, length=16, batch_tokens=64, piece_tokens=64, precision="float32", checks=3, save_steps=2
)


def changed(**options: Any) -> Training:
    return msgspec.structs.replace(TRAINING, **options)


def test_every_window_comes_once_before_any_comes_again() -> None:
    seen = np.concatenate([order(step, 4, 10, 0) for step in range(10)])
    for turn in range(4):
        assert sorted(seen[10 * turn : 10 * turn + 10].tolist()) == list(range(10))
    assert Counter(seen.tolist()) == dict.fromkeys(range(10), 4)
    assert seen[:10].tolist() != seen[10:20].tolist()
    assert order(3, 4, 10, 0).tolist() == order(3, 4, 10, 0).tolist() != order(3, 4, 10, 1).tolist()


def test_rates_rise_and_fall() -> None:
    rates = [rate_factor(step, 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[99] < 1e-3
    weights = [hidden_weight(step, 90) for step in range(90)]
    assert weights[:61] == [1.0] * 61
    assert weights[75] == pytest.approx(0.5)
    assert 0 < weights[-1] < 0.04


@pytest.mark.parametrize(
    ("loss", "training", "message"),
    [
        (Loss(kl=0), TRAINING, "all weights are 0"),
        (Loss(jsd=1), TRAINING, r"jsd needs more of the teacher .*; set top_k: 0"),
        (Loss(hidden=1, reverse_kl=1), TRAINING, "reverse_kl, hidden needs more"),
        (Loss(temperature=2.5), TRAINING, r"2\.5 is not among"),
        (Loss(), changed(top_k=321), r"top_k: 321, and the teacher's vocabulary has 320"),
    ],
)
def test_what_a_cache_cannot_give_is_refused(loss: Loss, training: Training, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_loss(loss, training, 320)

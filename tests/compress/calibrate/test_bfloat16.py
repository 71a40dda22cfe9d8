"""Products of bfloat16 factors are as exact as that allows, and only where they are asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import make_model_dir

from edgepress.compress.calibrate.bfloat16 import bfloat16_products, rounds_factors
from edgepress.compress.calibrate.pair_walk import PairWalk
from edgepress.compress.student.open import open_student

ONE, OTHER = (torch.from_numpy(np.random.default_rng(seed).normal(size=(96, 160))).float() for seed in (0, 1))
EXACT = ONE.double() @ OTHER.double().T


def wrong() -> float:
    product = torch.nn.functional.linear(ONE, OTHER)
    assert product.dtype == torch.float32
    return float((product.double() - EXACT).abs().mean() / EXACT.abs().mean())


def test_factors_lose_what_bfloat16_cannot_hold_and_sums_do_not() -> None:
    with bfloat16_products():
        found = wrong()
    if rounds_factors():
        assert 1e-4 < found < 2**-8
    else:
        assert found < 1e-6


def test_outside_everything_is_float32_also_after_an_error() -> None:
    with bfloat16_products(wanted=False):
        assert wrong() < 1e-6
    with pytest.raises(KeyError), bfloat16_products():
        raise KeyError
    assert wrong() < 1e-6


def test_a_walk_sees_nearly_the_same_with_them(tmp_path_factory: pytest.TempPathFactory) -> None:
    student = open_student(str(make_model_dir("llama", tmp_path_factory.mktemp("walk") / "student")))
    windows = np.random.default_rng(2).integers(4, 300, (6, 24)).astype(np.int32)
    found = []
    for bfloat16 in (False, True):
        for visit in PairWalk(student, windows, bfloat16=bfloat16).layers():
            for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"):
                found.append(visit.statistics(f"model.layers.{visit.index}.{name}.weight").hessian)
    half = len(found) // 2
    for exact, rounded in zip(found[:half], found[half:], strict=True):
        torch.testing.assert_close(rounded, rounded.T, rtol=1e-5, atol=1e-6 * float(rounded.abs().max()))
        assert float((exact - rounded).norm() / exact.norm()) < 2**-6

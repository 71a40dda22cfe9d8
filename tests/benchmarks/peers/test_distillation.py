"""The comparison of distillations: what a start is worth is read off two curves."""

from __future__ import annotations

import msgspec
import pytest

from edgepress.benchmarks.peers.distillation import WAYS, settings_for, share_of_tokens
from edgepress.benchmarks.training_record import Check, ModelSize, TrainingRecord
from edgepress.pipeline.distill_job import Settings, read_settings


def record(*divergences: float) -> TrainingRecord:
    size = ModelSize(parameters=1, layers=1, hidden=1, ffn=1)
    checks = tuple(Check(100 * place, value) for place, value in enumerate(divergences))
    return TrainingRecord(
        teacher=size, student=size, start="", training_tokens=1, text_tokens=1, step_tokens=1, held_out_tokens=1,
        losses=(), checks=checks,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("quick", "share"), [((9, 5, 3, 2), 2 / 3), ((2, 1, 1, 1), 0.0), ((9, 8, 7, 3), 1.0), ((9, 8, 7, 6), float("inf"))]
)
def test_the_share_is_where_one_curve_reaches_the_others_end(quick: tuple[float, ...], share: float) -> None:
    assert share_of_tokens(record(*quick), record(9, 8, 6, 3)) == pytest.approx(share)


@pytest.mark.parametrize("way", WAYS)
def test_ways_are_settings_that_differ_in_what_they_say(way: str) -> None:
    found = msgspec.convert(settings_for(read_settings("small"), way), Settings)
    assert found.loss.needs_teacher == (way != "labels")
    assert (found.train.top_k == 0) == (way == "alongside")
    assert found.start == read_settings("small").start

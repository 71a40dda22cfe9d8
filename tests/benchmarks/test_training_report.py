"""The page of a distillation against the records that it is made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from report_output import Page, make_manifest, numbers, save

from edgepress.benchmarks.report.training import write_training_report
from edgepress.benchmarks.report.training.figures import running_mean
from edgepress.benchmarks.training_record import Check, ModelSize, TrainingRecord, TrainingSpeed
from edgepress.errors import InputError
from edgepress.runtime.environment import read_machine

JOB = {
    "text": ["novels & <plays>.txt"], "held_out": [], "select": "importance", "sizes": {"hidden_size": 32},
    "settings": {"loss": {"kl": 1.0}, "train": {"tokens": 600, "seed": 41}},
}  # fmt: skip
RECORD = TrainingRecord(
    teacher=ModelSize(parameters=20_000_000, layers=9, hidden=640, ffn=1500),
    student=ModelSize(parameters=5_000_000, layers=4, hidden=320, ffn=750),
    start="its most important channels",
    training_tokens=600,
    text_tokens=400,
    step_tokens=100,
    held_out_tokens=77,
    losses=(3.5, 3.0, 2.5, 2.0, 1.5, 1.75),
    checks=(Check(0, 4.0), Check(300, 0.3125), Check(600, 0.5)),
)


def page(out: Path, record: TrainingRecord = RECORD, *, timed: bool = True, **job: Any) -> Page:
    make_manifest(out, recipe={"distill": JOB | job, "student": "a student"})
    save(out / "distillation.json", record)
    if timed:
        machine = read_machine()
        speed = TrainingSpeed(tokens=600, seconds=1.5, tokens_per_s=400.0, threads=1, machine=machine)
        save(out / "measurements/speed.json", speed)
    return Page(write_training_report(out))


def test_the_curves_are_the_record(tmp_path: Path) -> None:
    found = page(tmp_path)
    (curve, best), layout = found.figure("held-out")
    assert list(zip(curve["x"], curve["y"], strict=True)) == [(0, 4.0), (300, 0.3125), (600, 0.5)]
    assert (best["x"], best["y"]) == ([300], [0.3125])
    assert layout["yaxis"]["type"] == "log"
    (dots, line), layout = found.figure("loss")
    assert list(zip(dots["x"], dots["y"], strict=True)) == list(zip(range(100, 700, 100), RECORD.losses, strict=True))
    assert line["x"] == dots["x"]
    assert "type" not in layout["yaxis"]


@pytest.mark.parametrize(("count", "span"), [(1, 1), (7, 2), (30, 4)])
def test_the_running_mean_is_that_of_what_lies_around(count: int, span: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    wanted = [np.mean(values[max(0, place - span) : place + span + 1]) for place in range(count)]
    np.testing.assert_allclose(running_mean(values, span), wanted, atol=1e-12)


def test_sizes_speed_and_best_state_are_told(tmp_path: Path) -> None:
    found = page(tmp_path)
    assert found.row("sizes-table", "teacher: tiny")[1:] == ["20,000,000", "40.0", "9", "640", "1,500"]
    assert found.row("sizes-table", "student: tiny student")[1:] == ["5,000,000", "10.0", "4", "320", "750"]
    assert numbers(found.texts["headline"]) == pytest.approx([5.0, 25.0, 0.3125, 4.0], rel=0.005)
    for words in ("600 tokens, 1.50 times 400", "after 300 tokens, best of 3", "400.0 tokens/s, 1.50 s, 1 thread"):
        assert words in found.visible
    assert found.texts["texts"].strip() == "novels & <plays>.txt"
    assert "<plays>" not in found.source
    assert "--start sizes.json --select importance --text 'novels & <plays>.txt'" in found.texts["commands"]


def test_without_a_teacher_the_judge_is_a_cross_entropy_and_there_is_one_size(tmp_path: Path) -> None:
    alone = msgspec.structs.replace(RECORD, teacher=None, judge="cross_entropy")
    found = page(tmp_path, alone, sizes=None)
    assert found.row("sizes-table", "student: tiny student")[1:] == ["5,000,000", "10.0", "4", "320", "750"]
    assert numbers(found.texts["headline"]) == pytest.approx([5.0, 0.3125, 4.0], rel=0.005)
    assert "cross-entropy" in str(found.figure("held-out")[1]["yaxis"])
    assert "--teacher" not in found.texts["commands"]
    assert "teacher: " not in found.visible
    assert "divergence" not in found.visible


def test_nothing_is_fetched(tmp_path: Path) -> None:
    found = page(tmp_path)
    assert [link for link in found.links if not link.startswith(("#", "data:,"))] == []
    assert found.source.count("<!doctype html>") == 1


def test_what_did_not_happen_is_said(tmp_path: Path) -> None:
    stayed = msgspec.structs.replace(RECORD, checks=(Check(0, 0.25), Check(600, 0.5)))
    found = page(tmp_path, stayed, timed=False, sizes=None)
    assert "training brought nothing" in found.texts["headline"]
    assert "Speed was not measured." in found.visible
    assert "--student 'a student'" in found.texts["commands"]


def test_a_student_that_is_the_last_state_is_said_to_be(tmp_path: Path) -> None:
    last = msgspec.structs.replace(RECORD, kept="last")
    found = page(tmp_path, last)
    assert found.figure("held-out")[0][1]["x"] == [600]
    assert "after 600 tokens, last of 3" in found.visible
    assert "flatters" not in found.visible


def test_an_identical_teacher_leaves_no_logarithm_of_zero(tmp_path: Path) -> None:
    same = msgspec.structs.replace(RECORD, losses=(0.0, 0.0), checks=(Check(0, 0.0), Check(600, 0.0)))
    assert "type" not in page(tmp_path, same).figure("held-out")[1]["yaxis"]


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    page(tmp_path)
    (tmp_path / "distillation.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"distillation\.json: not a record"):
        write_training_report(tmp_path)

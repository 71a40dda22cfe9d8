"""Shares of a teacher become sizes that weight selection takes, for every family."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgepress.compress.distill.shares import Shares, sizes_from_shares
from edgepress.compress.distill.smaller import smaller_size
from edgepress.compress.distill.weight_selection import SelectedWeights
from edgepress.compress.student.open import open_student
from edgepress.pipeline.distill_job import read_settings
from edgepress.profiles.distillations import SETTINGS_NAMES


def test_whole_shares_are_the_teacher(family_dir: Path) -> None:
    teacher = open_student(str(family_dir))
    size = smaller_size(teacher, sizes_from_shares(teacher.spec, Shares()))
    assert size.spec == teacher.spec


@pytest.mark.parametrize("width", [0.2, 0.5, 0.667, 0.9])
def test_widths_are_whole_groups_of_heads_and_multiples_of_64(family_dir: Path, width: float) -> None:
    teacher = open_student(str(family_dir))
    sizes = sizes_from_shares(teacher.spec, Shares(width=width, depth=0.5))
    layer = teacher.spec.layers[0]
    assert sizes["num_attention_heads"] * layer.kv_heads == sizes["num_key_value_heads"] * layer.heads
    for name, whole in (("hidden_size", teacher.spec.hidden), ("intermediate_size", layer.ffn)):
        assert sizes[name] == whole or (sizes[name] % 64 == 0 and sizes[name] < whole)
    student = SelectedWeights(teacher, smaller_size(teacher, sizes))
    assert student.spec.depth == round(teacher.spec.depth * 0.5)


@pytest.mark.parametrize("name", [name for name in SETTINGS_NAMES if read_settings(name).start])
def test_shipped_settings_start_from_any_teacher(family_dir: Path, name: str) -> None:
    settings, teacher = read_settings(name), open_student(str(family_dir))
    assert settings.start is not None
    SelectedWeights(teacher, smaller_size(teacher, sizes_from_shares(teacher.spec, settings.start)))


def test_small_makes_31_million_parameters_of_the_built_in_student() -> None:
    settings, teacher = read_settings("small"), open_student("smollm2-135m-instruct")
    assert settings.start is not None
    student = SelectedWeights(teacher, smaller_size(teacher, sizes_from_shares(teacher.spec, settings.start)))
    count = 0
    for name in student.names:
        size = 1
        for side in student.shape(name):
            size *= side
        count += size
    assert 20e6 < count < 35e6

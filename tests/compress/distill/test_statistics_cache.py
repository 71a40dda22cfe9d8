"""Channel statistics that are kept: the same numbers, computed once, and none that are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from own_cache import own_cache  # noqa: F401
from tiny_models import make_model_dir

from edgepress.artifact.cache import cache_dir
from edgepress.artifact.weights import WeightSource
from edgepress.compress.distill import statistics_cache
from edgepress.compress.distill.channel_statistics import ChannelStatistics, channel_statistics
from edgepress.compress.distill.statistics_cache import cached_statistics
from edgepress.compress.student.open import open_student
from edgepress.errors import InputError

pytestmark = pytest.mark.usefixtures("own_cache")
WINDOWS = np.random.default_rng(0).integers(4, 300, (3, 16)).astype(np.int32)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_kept_statistics_are_those_of_the_model_to_the_bit(family: str, tmp_path: Path) -> None:
    teacher = open_student(str(make_model_dir(family, tmp_path / "teacher")))
    wanted = channel_statistics(teacher, WINDOWS)
    for found in (cached_statistics(teacher, WINDOWS), cached_statistics(teacher, WINDOWS)):
        assert found.digest() == wanted.digest()
        assert found.norm_inputs.keys() == wanted.norm_inputs.keys()


def test_the_model_runs_once_and_again_for_another_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = open_student(str(make_model_dir("llama", tmp_path / "teacher", seed=7)))
    runs: list[int] = []

    def counted(source: WeightSource, windows: NDArray[np.int32]) -> ChannelStatistics:
        runs.append(len(windows))
        return channel_statistics(source, windows)

    monkeypatch.setattr(statistics_cache, "channel_statistics", counted)
    for windows in (WINDOWS, WINDOWS, WINDOWS[:2]):
        cached_statistics(teacher, windows)
    assert runs == [3, 2]


def test_damaged_statistics_are_refused_and_named(tmp_path: Path) -> None:
    teacher = open_student(str(make_model_dir("llama", tmp_path / "teacher", seed=8)))
    before = set((cache_dir() / "channels").glob("*/statistics.safetensors"))
    cached_statistics(teacher, WINDOWS)
    (path,) = set((cache_dir() / "channels").glob("*/statistics.safetensors")) - before
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"statistics\.safetensors: damaged .* remove"):
        cached_statistics(teacher, WINDOWS)

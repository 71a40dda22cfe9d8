"""Cores are counted within what this process may use; the largest cache is found where the kernel tells."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgepress.runtime.cores import last_level_cache_bytes, physical_cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is Linux's")
def test_a_process_on_one_cpu_has_one_core() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert physical_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_there_is_at_least_one_core_and_no_more_than_cpus() -> None:
    assert 1 <= physical_cores() <= (os.cpu_count() or 1)


def test_the_largest_cache_counts_and_none_is_known_where_the_kernel_is_silent(tmp_path: Path) -> None:
    assert last_level_cache_bytes(tmp_path) is None
    for place, size in enumerate(("48K", "2M", "1024K", "?", "")):
        (tmp_path / f"index{place}").mkdir()
        (tmp_path / f"index{place}/size").write_text(f"{size}\n", encoding="ascii")
    assert last_level_cache_bytes(tmp_path) == 2 << 20

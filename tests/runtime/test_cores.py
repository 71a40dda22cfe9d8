"""Cores are counted within what this process may use."""

from __future__ import annotations

import os

import pytest

from edgepress.runtime.cores import physical_cores


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

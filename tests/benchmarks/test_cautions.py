"""A number taken on a troubled machine says so."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edgepress.benchmarks.cautions import machine_cautions, repetition_cautions
from edgepress.runtime.environment import Environment, Machine, MachineState

_MACHINE = Machine(
    cpu=None,
    physical_cores=4,
    logical_cores=4,
    cpu_quota=None,
    max_mhz=None,
    memory_total_bytes=None,
    kernel="",
    architecture="",
    virtual=None,
    board=None,
    jetson=None,
    python="",
    versions={},
)
_UNREADABLE = MachineState(
    time="2026-01-01T00:00:00.000+00:00",
    load_1min=None,
    cpu_wait_seconds=None,
    governors=(),
    mhz=None,
    memory_available_bytes=None,
    swap_used_bytes=None,
    throttle_events=None,
    temperatures_celsius={},
)


def _environment(before: dict[str, Any], after: dict[str, Any], quota: float | None = None) -> Environment:
    later = {"time": "2026-01-01T00:01:40.000+00:00"}
    return Environment(
        machine=msgspec.structs.replace(_MACHINE, cpu_quota=quota),
        before=msgspec.structs.replace(_UNREADABLE, **before),
        after=msgspec.structs.replace(_UNREADABLE, **(later | after)),
    )


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({"load_1min": 2.1}, {}, "load average was 2.10 on 4 cores"),
        ({"governors": ("performance", "schedutil")}, {}, "governor schedutil"),
        ({"swap_used_bytes": 5 << 20}, {}, "5 MiB of swap were in use"),
        ({"swap_used_bytes": 0}, {"swap_used_bytes": 7 << 20}, "pushed 7 MiB into swap"),
        ({"throttle_events": 3}, {"throttle_events": 4}, "throttled for heat"),
        ({"cpu_wait_seconds": 10.0}, {"cpu_wait_seconds": 60.0}, "50 % of the run"),
    ],
)
def test_a_troubled_machine_is_named(before: dict[str, Any], after: dict[str, Any], words: str) -> None:
    found = machine_cautions(_environment(before, after))
    assert len(found) == 1
    assert words in found[0]


def test_a_container_with_fewer_cores_is_named() -> None:
    assert machine_cautions(_environment({}, {}, quota=1.5)) == ["the container may use 1.5 of 4 cores"]


def test_a_quiet_machine_and_an_unreadable_one_give_no_caution() -> None:
    quiet: dict[str, Any] = {"load_1min": 1.9, "governors": ("performance",), "swap_used_bytes": 0}
    quiet |= {"throttle_events": 3, "cpu_wait_seconds": 1.0}
    assert machine_cautions(_environment(quiet, quiet)) == []
    assert machine_cautions(_environment({}, {})) == []


def test_few_repetitions_and_a_slower_end_are_named() -> None:
    assert repetition_cautions([10, 10, 10, 9.5, 9.1]) == []
    assert "4 repetitions" in repetition_cautions([10, 10, 10, 10])[0]
    (slower,) = repetition_cautions([10, 10, 10, 10, 8])
    assert "20 % slower" in slower

"""Reasons to distrust a latency, found in the state of the machine and in the samples themselves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from edgepress.runtime.environment import Environment

ENOUGH_REPETITIONS = 5
_BUSY_SHARE = 0.5
_WAITING_SHARE = 0.1
_SLOWER = 0.9


def machine_cautions(environment: Environment) -> list[str]:
    """What the machine's state says against the numbers."""
    before, after, cores = environment.before, environment.after, environment.machine.logical_cores
    found = []
    if before.load_1min is not None and before.load_1min > _BUSY_SHARE * cores:
        found.append(f"the load average was {before.load_1min:.2f} on {cores} cores at the start: others were working")
    waiting = _waiting_share(environment)
    if waiting is not None and waiting > _WAITING_SHARE:
        found.append(f"tasks waited for a free core during {100 * waiting:.0f} % of the run: the cores were shared")
    slow = [name for name in before.governors if name != "performance"]
    if slow:
        found.append(f"CPU governor {', '.join(slow)}: clocks vary; set it to performance for figures that repeat")
    if before.swap_used_bytes:
        found.append(f"{before.swap_used_bytes >> 20} MiB of swap were in use: memory was short before the run")
    elif after.swap_used_bytes:
        found.append(f"the run pushed {after.swap_used_bytes >> 20} MiB into swap: memory is too small for it")
    if (after.throttle_events or 0) > (before.throttle_events or 0):
        found.append("the processor throttled for heat during the run")
    quota = environment.machine.cpu_quota
    if quota is not None and quota < cores:
        found.append(f"the container may use {quota:g} of {cores} cores")
    return found


def _waiting_share(environment: Environment) -> float | None:
    """Share of the run's time in which some task found no free core."""
    before, after = environment.before, environment.after
    elapsed = (datetime.fromisoformat(after.time) - datetime.fromisoformat(before.time)).total_seconds()
    if before.cpu_wait_seconds is None or after.cpu_wait_seconds is None or elapsed <= 0:
        return None
    return (after.cpu_wait_seconds - before.cpu_wait_seconds) / elapsed


def stand_in_cautions(stands_in: bool) -> list[str]:
    """What a graph for TensorRT that ran on the processor says: nothing of a GPU."""
    return ["ONNX Runtime ran a graph for TensorRT on the CPU: nothing of this is a GPU's speed"] if stands_in else []


def repetition_cautions(decode_rates: Sequence[float]) -> list[str]:
    """What the repetitions say against themselves; ``decode_rates`` in tokens/s, in the order of time."""
    found = []
    if len(decode_rates) < ENOUGH_REPETITIONS:
        found.append(f"{len(decode_rates)} repetitions: the spread is a guess; take at least {ENOUGH_REPETITIONS}")
    first, last = decode_rates[0], decode_rates[-1]
    if last < _SLOWER * first:
        found.append(
            f"the last repetition decodes {100 * (1 - last / first):.0f} % slower than the first: "
            "the processor may be throttling, or other work began"
        )
    return found

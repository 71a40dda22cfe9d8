"""How many physical cores this process may use: what engines get as their number of threads; and their cache."""

from __future__ import annotations

import os
from pathlib import Path

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_TOPOLOGY = "/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"


def physical_cores() -> int:
    """Physical cores among the CPUs that this process is allowed on; two hardware threads of a core count once.

    A second thread on a core slows matrix products down rather than speeding them up.
    """
    if not hasattr(os, "sched_getaffinity"):
        import psutil

        return psutil.cpu_count(logical=False) or 1
    return len({_siblings(cpu) for cpu in os.sched_getaffinity(0)})


def _siblings(cpu: int) -> str:
    """The kernel's name for the core that a CPU is a thread of; the CPU itself where the kernel does not say."""
    try:
        return Path(_TOPOLOGY.format(cpu=cpu)).read_text(encoding="ascii").strip()
    except OSError:
        return str(cpu)


def last_level_cache_bytes(folder: Path = _CACHES) -> int | None:
    """The largest cache of the first CPU; None where the kernel does not say."""
    sizes = []
    for path in folder.glob("index*/size"):
        try:
            text = path.read_text(encoding="ascii").strip()
            sizes.append(int(text.rstrip("KMG")) * _UNITS.get(text[-1:], 1))
        except (OSError, ValueError):
            continue
    return max(sizes, default=None)

"""Peak memory of this process.

The kernel keeps a high-water mark per address space (VmHWM). ``getrusage``'s ru_maxrss is no substitute where the mark
exists: it survives ``exec``, so that a small worker started by a large process would report its parent's peak.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from edgepress.benchmarks.records import PeakMemory
from edgepress.runtime.session import resident_bytes

_STATUS = Path("/proc/self/status")


class PeakWatch:
    """Remembers the largest snapshot of private and file-mapped memory it has seen."""

    def __init__(self) -> None:
        self._start = resident_bytes()
        self._largest: dict[str, int] = {}

    def look(self) -> None:
        """Take a snapshot; cheap, but not for timed code."""
        now = read_status()
        if now.get("VmRSS", 0) > self._largest.get("VmRSS", 0):
            self._largest = now

    def record(self, weights_bytes: int, kv_cache_bytes: int) -> PeakMemory:
        """The peak until now, beside what the engine says it holds."""
        self.look()
        return PeakMemory(
            peak_rss_bytes=read_status().get("VmHWM") or _maxrss(),
            start_rss_bytes=self._start,
            peak_anonymous_bytes=self._largest.get("RssAnon"),
            peak_file_bytes=self._largest.get("RssFile"),
            engine_weights_bytes=weights_bytes,
            engine_kv_cache_bytes=kv_cache_bytes,
        )


def read_status(path: Path = _STATUS) -> dict[str, int]:
    """The memory lines of /proc/self/status in bytes; empty where there is none."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    words = [line.replace(":", " ").split() for line in lines if line.endswith(" kB")]
    return {word[0]: int(word[1]) * 1024 for word in words}


def _maxrss() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

"""Peak memory is the kernel's mark, split where the kernel splits it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil

from edgepress.benchmarks.process_memory import PeakWatch, read_status


def test_the_status_file_is_read_in_bytes(tmp_path: Path) -> None:
    file = tmp_path / "status"
    file.write_text("Name:\tpython\nVmHWM:\t    1776 kB\nVmRSS:\t1000 kB\nRssAnon:\t 112 kB\nThreads:\t1\n")
    assert read_status(file) == {"VmHWM": 1776 * 1024, "VmRSS": 1000 * 1024, "RssAnon": 112 * 1024}
    assert read_status(tmp_path / "nothing") == {}


def test_a_peak_between_two_looks_is_not_missed() -> None:
    watch = PeakWatch()
    before = psutil.Process().memory_info().rss
    ballast = np.ones(25_000_000)  # 200 MB, touched
    held = ballast.nbytes
    del ballast
    record = watch.record(1, 2)
    assert record.peak_rss_bytes > before + 0.9 * held
    assert record.peak_anonymous_bytes is not None
    assert record.peak_file_bytes is not None
    assert (record.engine_weights_bytes, record.engine_kv_cache_bytes) == (1, 2)

"""One core for everything that a test starts: tiny models spend more time waiting for a second thread than it saves.

Import the fixture into a test module and mark it with ``pytest.mark.usefixtures("one_core")``. Processes that are
started inherit it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def one_core() -> Iterator[None]:
    """Run on one of the cores that this process may use, with one thread in torch."""
    import torch

    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, {sorted(cores)[_worker() % len(cores)]})
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    os.sched_setaffinity(0, cores)


def _worker() -> int:
    """A number that tests running beside each other do not share."""
    named = os.environ.get("PYTEST_XDIST_WORKER", "")
    return int(named.removeprefix("gw")) if named.startswith("gw") else os.getpid()

"""How the threads of matrix products wait for each other.

GNU OpenMP, which torch brings with it, lets a thread that waits spin for some 300 thousand rounds before it sleeps.
Where another process wants the same core, the spinning thread keeps the one from it that all others wait for: a solve
beside one busy process takes five times as long. A thousand rounds cost nothing on an idle machine and yield on a
busy one.

Measured: docs/LOG.md, "Threads that wait".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLE = "GOMP_SPINCOUNT"
_ROUNDS = "1000"


@contextmanager
def brief_waits() -> Iterator[None]:
    """Libraries that load OpenMP inside get threads that sleep soon; what the user has set stays.

    OpenMP reads its settings once, when it is loaded, so torch must not have been imported before.
    """
    if _VARIABLE in os.environ or "OMP_WAIT_POLICY" in os.environ:
        yield
        return
    os.environ[_VARIABLE] = _ROUNDS
    try:
        yield
    finally:
        os.environ.pop(_VARIABLE, None)

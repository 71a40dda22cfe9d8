"""What the scripts have in common: an error of ours is one line on stderr, and its exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable

from edgepress.errors import EdgepressError


def exit_code(work: Callable[[], None]) -> int:
    """Do the work; 0, or the code of the error that was printed."""
    try:
        work()
    except EdgepressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0

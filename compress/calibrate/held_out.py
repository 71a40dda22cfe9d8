"""Calibration text set aside: what judges a result must not be what it was made from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Windows = NDArray[np.int32]
_HELD_OUT_TOKENS = 4096


def hold_out(windows: Windows) -> tuple[Windows, Windows]:
    """Held-out windows, spread over the calibration text, and the rest; a quarter, and no more than is needed.

    A single window is both.

    Args:
        windows: token ids, (samples, length).
    """
    if len(windows) < 2:
        return windows, windows
    count = max(1, min(len(windows) // 4, _HELD_OUT_TOKENS // windows.shape[1]))
    return windows[_spread(len(windows), count)], np.delete(windows, _spread(len(windows), count), axis=0)


def thin_out(windows: Windows, count: int) -> Windows:
    """At most ``count`` windows, spread over the text."""
    return windows if count >= len(windows) else windows[_spread(len(windows), count)]


def _spread(length: int, count: int) -> NDArray[np.intp]:
    return np.unique(np.linspace(0, length - 1, count).astype(np.intp))

"""Llama 3's rope scaling, recovered from the divisors that a GGUF file stores in its place.

The converter writes d_k, what each frequency is divided by (:mod:`edgepress.artifact.rope`), and drops the four
parameters. They come back from

    d_k = 1 / ((1 - s_k)/factor + s_k),   s_k = clip((original·f_k/2π - low) / (high - low), 0, 1)

factor is the largest d. On the ramp s is a line in f_k/2π; its slope and offset fix original and high once low is set
to 1, which loses nothing, since only the ratios original : low : high matter. Whatever is found must give back every
stored divisor.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.rope import divisors
from edgepress.artifact.spec import RopeSpec

# (factor, low, high, original context) as released: Llama 3.1 and 3.3, Llama 3.2.
_KNOWN = ((8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192))

# The converter computes in float32; near the end of the ramp that costs up to 1e-5. Neighbouring contexts differ more.
_TOLERANCE = 5e-5


def recover_llama3(stored: NDArray[np.float32], theta: float) -> RopeSpec | None:
    """The scaling that gives these divisors, float32 (head_dim / 2,); None when there is none.

    All ones come back as no scaling, one constant as linear scaling.
    """
    count = stored.size
    plain = theta ** (-np.arange(count, dtype=np.float64) / count)
    target = stored.astype(np.float64)
    if not np.isfinite(target).all() or target.min() < 1 - _TOLERANCE:
        return None
    for candidate in _candidates(target, plain, theta):
        if np.allclose(divisors(candidate, plain), target, rtol=_TOLERANCE, atol=0):
            return candidate
    return None


def _candidates(target: NDArray[np.float64], plain: NDArray[np.float64], theta: float) -> Iterator[RopeSpec]:
    factor = round(float(target.max()), 4)
    yield RopeSpec(theta=theta)
    yield RopeSpec(theta=theta, scaling="linear", factor=factor)
    for known in _KNOWN:
        yield _llama3(theta, *known)
    ramp = (target > 1 + _TOLERANCE) & (target < factor * (1 - _TOLERANCE))
    per_turn = plain[ramp] / (2 * np.pi)
    smooth = (1 / target[ramp] - 1 / factor) / (1 - 1 / factor)
    if per_turn.size >= 2:
        slope, offset = np.polyfit(per_turn, smooth, 1)
        if offset < -1e-3 and slope > 0:
            yield _llama3(theta, factor, 1.0, round(1 - 1 / offset, 3), round(-slope / offset))
    if per_turn.size:
        yield _llama3(theta, factor, 1.0, 4.0, round((3 * smooth[0] + 1) / per_turn[0]))
    for power in range(4, 24):
        yield _llama3(theta, factor, 1.0, 4.0, 2**power)


def _llama3(theta: float, factor: float, low: float, high: float, original: int) -> RopeSpec:
    return RopeSpec(
        theta=theta,
        scaling="llama3",
        factor=factor,
        low_freq_factor=low,
        high_freq_factor=high,
        original_context=original,
    )

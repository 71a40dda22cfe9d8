"""The loops over logits that are halves, compiled: what :mod:`~edgepress.compress.distill.half_logits` says in numbers.

A half is handled as its bits, which numba knows as a whole number; shifted up by 16 they are those of the same float32.

    2^x = 2^n p(x - n)      n whole, x - n in [-1/2, 1/2], p Taylor's series at 0 to the fifth degree, off by 3e-6
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgepress.compress.compiled import compiled_in_any_order

_BLOCK = 64
_SPARE = 16  # candidates beyond k, whose places rounding may have changed
_LOWEST = np.uint16(0xF149)  # -1e30: as good as minus infinity, and no trouble when it is scaled or taken from itself
_PER_E = 1 / math.log(2)
_C1, _C2, _C3, _C4, _C5 = (np.float32(math.log(2) ** power / math.factorial(power)) for power in range(1, 6))
_TWELFTHS = (12, 8, 6, 4, 3)  # 1/T of the temperatures that a cache knows, in their order


@compiled_in_any_order
def divergence_rows(
    start: int,
    stop: int,
    halves: NDArray[np.uint16],
    hidden: NDArray[np.float32],
    head: NDArray[np.float32],
    ids: NDArray[np.int64],
    log_probs: NDArray[np.float32],
    log_tail: NDArray[np.float32],
    temperature: float,
    weight: float,
    losses: NDArray[np.float64],
) -> None:
    """Of some tokens; everything else as in ``half_logits.to_gradient``, ``halves`` being the bits of the logits."""
    powers, top = np.empty(halves.shape[1], np.float32), np.empty(ids.shape[1], np.float64)
    for row in range(start, stop):
        for place in range(len(top)):
            top[place] = _dot(hidden[row], head[ids[row, place]]) / temperature
            halves[row, ids[row, place]] = _LOWEST
        largest = _largest(halves[row]) / temperature
        scale, shift = np.float32(_PER_E / temperature), np.float32(largest * _PER_E)
        total = _powers(halves[row], scale, shift, np.float32(-100), powers)
        log_rest = largest + math.log(total)
        log_sum = _log_sum(top, log_rest)
        tail = math.exp(log_tail[row])
        loss = tail * (log_tail[row] - log_rest + log_sum) if tail > 0 else 0.0
        factor = math.exp(largest - log_sum) - (tail / total if tail > 0 else 0.0)
        _narrow(powers, np.float32(temperature * weight * factor), halves[row])
        for place in range(len(top)):
            p, log_q = math.exp(log_probs[row, place]), top[place] - log_sum
            loss += p * (log_probs[row, place] - log_q) if p > 0 else 0.0
            halves[row, ids[row, place]] = _half(np.float32(temperature * weight * (math.exp(log_q) - p)))
        losses[row] = temperature**2 * weight * loss


@compiled_in_any_order
def _dot(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    total = np.float32(0)
    for place in range(len(one)):
        total += one[place] * other[place]
    return float(total)


@compiled_in_any_order
def _log_sum(top: NDArray[np.float64], log_rest: float) -> float:
    """log(Σ exp top + exp log_rest)."""
    largest, total = max(top.max(), log_rest), 0.0
    for value in top:
        total += math.exp(value - largest)
    return float(largest + math.log(total + math.exp(log_rest - largest)))


@compiled_in_any_order
def _largest(halves: NDArray[np.uint16]) -> float:
    """As whole numbers, of which the largest is found many at a time: negative ones have their other bits turned."""
    largest = np.int32(-0x8000)
    for bits in halves:
        signed = np.int32(np.int16(bits))
        largest = max(largest, np.int32(signed ^ ((signed >> 15) & 0x7FFF)))
    turned = largest ^ ((largest >> 15) & 0x7FFF)
    return float(np.uint32(np.uint32(turned) << 16).view(np.float32))


@compiled_in_any_order
def _powers(
    halves: NDArray[np.uint16], scale: np.float32, shift: np.float32, least: np.float32, powers: NDArray[np.float32]
) -> np.float32:
    """2^(scale · z - shift) of each, at most 1 and 2^``least`` at the least; returns their sum."""
    total = np.float32(0)
    for place in range(len(halves)):
        value = np.uint32(np.uint32(halves[place]) << 16).view(np.float32)
        exponent = min(max(value * scale - shift, least), np.float32(0))
        whole = np.int32(exponent - np.float32(0.5))
        part = exponent - np.float32(whole)
        series = np.float32(1) + part * (_C1 + part * (_C2 + part * (_C3 + part * (_C4 + part * _C5))))
        power = np.int32((whole + 127) << 23).view(np.float32) * series
        powers[place] = power
        total += power
    return total


@compiled_in_any_order
def _narrow(values: NDArray[np.float32], factor: np.float32, halves: NDArray[np.uint16]) -> None:
    """The bits of factor · value as a half."""
    for place in range(len(values)):
        halves[place] = _half(np.float32(values[place] * factor))


@compiled_in_any_order
def _half(value: np.float32) -> np.uint16:
    """To the nearest, of two the even one."""
    bits = np.float32(value).view(np.uint32)
    return np.uint16((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)


@compiled_in_any_order
def likeliest_rows(
    start: int,
    stop: int,
    halves: NDArray[np.uint16],
    hidden: NDArray[np.float32],
    head: NDArray[np.float32],
    ids: NDArray[np.int64],
    log_probs: NDArray[np.float32],
    log_tails: NDArray[np.float32],
) -> None:
    """Of some tokens; everything else as in ``half_logits.likeliest``."""
    k, vocab = ids.shape[1], halves.shape[1]
    powers, candidates, values = np.empty(vocab, np.float32), np.empty(vocab, np.int64), np.empty(vocab, np.float64)
    for row in range(start, stop):
        count = _candidates(halves[row], min(k + _SPARE, vocab), candidates)
        for place in range(count):
            values[place] = _dot(hidden[row], head[candidates[place]])
        if count < k:  # logits that are no numbers, and what comes of them is none either
            candidates[:k], values[:k] = np.arange(k), np.nan
            count = k
        order = np.argsort(-values[:count])
        for place in range(k):
            ids[row, place] = candidates[order[place]]
            log_probs[row, place] = values[order[place]]
            halves[row, ids[row, place]] = _LOWEST
        largest = _largest(halves[row])
        scale, shift = np.float32(_PER_E / 12), np.float32(largest * _PER_E / 12)
        _powers(halves[row], scale, shift, np.float32(-10), powers)
        sums = _sums_of_powers(powers)
        log_sum = _log_sum(values[order[:k]], largest + math.log(sums[0]))
        log_probs[row] -= log_sum
        for place in range(len(sums)):
            log_tails[row, place] = math.log(sums[place]) + (largest - log_sum) * _TWELFTHS[place] / 12


@compiled_in_any_order
def _candidates(halves: NDArray[np.uint16], wanted: int, candidates: NDArray[np.int64]) -> int:
    """All tokens that reach the ``wanted``-th of the blocks' largest logits; returns how many there are.

    Blocks are so small that there are four times as many as are wanted, or single tokens.
    """
    block = max(1, min(_BLOCK, len(halves) // (4 * wanted)))
    blocks = -(-len(halves) // block)
    largest = np.empty(blocks, np.float32)
    for place in range(blocks):
        largest[place] = _largest(halves[place * block : (place + 1) * block])
    least, count = np.sort(largest)[blocks - wanted], 0
    for place in range(blocks):
        if largest[place] >= least:
            for token in range(place * block, min((place + 1) * block, len(halves))):
                if np.uint32(np.uint32(halves[token]) << 16).view(np.float32) >= least:
                    candidates[count] = token
                    count += 1
    return count


@compiled_in_any_order
def _sums_of_powers(roots: NDArray[np.float32]) -> tuple[float, float, float, float, float]:
    """Σ r¹², Σ r⁸, Σ r⁶, Σ r⁴, Σ r³ of r = p^{1/12}, as ``_TWELFTHS`` says."""
    twelfth = eighth = sixth = fourth = third = np.float32(0)
    for root in roots:
        cube = root * root * root
        square = cube * root
        twelfth += square * square * square
        eighth += square * square
        sixth += cube * cube
        fourth += square
        third += cube
    return float(twelfth), float(eighth), float(sixth), float(fourth), float(third)

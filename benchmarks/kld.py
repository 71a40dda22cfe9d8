"""How far a model's next-token distribution is from a reference: divergence, agreement, surprise.

For logits x (reference) and y (model) at one position, with log p = x - logsumexp(x) and log q = y - logsumexp(y),

    KL(p‖q) = Σ p·(log p - log q)      in nats, 0 when they agree everywhere
    agrees  = argmax x == argmax y     ties go to the lower id
    nll     = -log q[next token]       its mean's exponential is the perplexity

Logits come as float32; every sum is float64. Rows are taken a few at a time, so that the float64 copies of a
vocabulary of 150 000 stay within a processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

Logits = NDArray[np.float32]
Doubles = NDArray[np.float64]

_CHUNK_VALUES = 2**18


@dataclass(frozen=True)
class Scores:
    """Scores of T positions, each array of shape (T,). Divergence and surprise in nats."""

    kld: Doubles
    agrees: NDArray[np.bool_]
    nll: Doubles
    nll_reference: Doubles

    @classmethod
    def join(cls, pieces: Sequence[Self]) -> Self:
        """One after the other."""
        return cls(
            kld=np.concatenate([piece.kld for piece in pieces]),
            agrees=np.concatenate([piece.agrees for piece in pieces]),
            nll=np.concatenate([piece.nll for piece in pieces]),
            nll_reference=np.concatenate([piece.nll_reference for piece in pieces]),
        )


def row_chunks(rows: int, vocab: int) -> Iterator[slice]:
    """Slices over ``rows`` such that a float64 copy of one chunk stays near 2 MB."""
    size = max(1, _CHUNK_VALUES // vocab)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def log_normalisers(values: Doubles) -> Doubles:
    """logsumexp of each row. ``values``: (T, V); returns (T,)."""
    peak = values.max(axis=1)
    return np.asarray(peak + np.log(np.exp(values - peak[:, None]).sum(axis=1)))


def score(reference: Logits, logits: Logits, targets: NDArray[np.integer]) -> Scores:
    """Compare two sets of logits, position by position.

    Args:
        reference, logits: (T, V), finite.
        targets: (T,), the token that follows each position.
    """
    rows, vocab = logits.shape
    return Scores.join([_score(reference[at], logits[at], targets[at]) for at in row_chunks(rows, vocab)])


def _score(reference: Logits, logits: Logits, targets: NDArray[np.integer]) -> Scores:
    log_p = log_softmax(reference)
    log_q = log_softmax(logits)
    each = np.arange(len(targets))
    return Scores(
        kld=np.einsum("tv,tv->t", np.exp(log_p), log_p - log_q),
        agrees=reference.argmax(axis=1) == logits.argmax(axis=1),
        nll=-log_q[each, targets],
        nll_reference=-log_p[each, targets],
    )


def log_softmax(logits: Logits) -> Doubles:
    """Log-probabilities in float64. (T, V) to (T, V)."""
    values = logits.astype(np.float64)
    return np.asarray(values - log_normalisers(values)[:, None])

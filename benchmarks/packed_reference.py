"""Reference distributions at about one byte per vocabulary entry, with an unbiased divergence.

    head    the 256 most likely tokens: ids and log-probabilities, float32
    tail    all others: codes 1 to 255 on a uniform grid between the position's least and greatest tail log-probability,
            at most 24 nats apart; code 0 for what lies below and weighs nothing; the tail's total mass in float64
    exact   the most likely token, log p of the next token, and E = Σ p̂·log p

Decoding gives weights p̂ that sum to 1 and carry the exact mass in head and tail. The stored E makes the estimate

    KL(p‖q) ≈ E - Σ p̂·log q = Σ p̂·(log p - log q)

in which only the weights are rounded and the log-ratio is not. The error is Σ (p̂ - p)·(log p - log q): it vanishes as
q approaches p (a model compared with itself scores 0 to the last bits), and has no sign elsewhere, so that it averages
out. Using the rounded log-probabilities on both sides instead would add KL(p̂‖p) to every position, up to 1e-3 where
the distribution is flat; llama.cpp's 16-bit logits have such a floor at 5e-4. Single positions may come out below zero
by as much as the rounding error; they are not clipped, since that would bend the mean.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from edgepress.benchmarks.kld import Doubles, Logits, Scores, log_normalisers, log_softmax, row_chunks

HEAD = 256
_LEVELS = np.arange(-1, 255)  # by code; code 0 stands for no weight at all
_REACH_NATS = 24.0


@dataclass(frozen=True)
class PackedPositions:
    """T positions over a vocabulary of V with a head of K = min(256, V) tokens."""

    codes: NDArray[np.uint8]  # (T, V); without meaning in the head's places
    head_ids: NDArray[np.uint32]  # (T, K)
    head_log_probs: NDArray[np.float32]  # (T, K)
    low: NDArray[np.float32]  # (T,) log-probability of code 1
    step: NDArray[np.float32]  # (T,) nats between codes
    tail_mass: Doubles  # (T,)
    expected_log_prob: Doubles  # (T,) E above
    argmax: NDArray[np.uint32]  # (T,)
    target_log_prob: Doubles  # (T,) log p of the next token

    def rows(self, at: slice) -> Self:
        """Some of the positions."""
        return type(self)(**{name: array[at] for name, array in self.arrays().items()})

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def join(cls, pieces: list[Self]) -> Self:
        """One after the other."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: np.concatenate([getattr(piece, name) for piece in pieces]) for name in names})


def pack(logits: Logits, targets: NDArray[np.integer]) -> PackedPositions:
    """Pack the reference's logits.

    Args:
        logits: (T, V), finite.
        targets: (T,), the token that follows each position.
    """
    rows, vocab = logits.shape
    return PackedPositions.join([_pack(logits[at], targets[at]) for at in row_chunks(rows, vocab)])


def score_packed(packed: PackedPositions, logits: Logits, targets: NDArray[np.integer]) -> Scores:
    """What :func:`~edgepress.benchmarks.kld.score` gives, with the reference packed.

    Args:
        packed: T positions.
        logits: (T, V), finite.
        targets: (T,), the token that follows each position.
    """
    rows, vocab = logits.shape
    chunks = row_chunks(rows, vocab)
    return Scores.join([_score(packed.rows(at), logits[at], targets[at]) for at in chunks])


def unpack_weights(packed: PackedPositions) -> Doubles:
    """The weights p̂, (T, V), each row summing to 1."""
    table = np.exp(packed.low[:, None].astype(np.float64) + packed.step[:, None].astype(np.float64) * _LEVELS)
    table[:, 0] = 0.0
    weights = np.stack([levels[codes] for levels, codes in zip(table, packed.codes, strict=True)])
    np.put_along_axis(weights, packed.head_ids, 0.0, axis=1)
    total = weights.sum(axis=1)
    weights *= np.divide(packed.tail_mass, total, out=np.zeros_like(total), where=total > 0)[:, None]
    np.put_along_axis(weights, packed.head_ids, np.exp(packed.head_log_probs.astype(np.float64)), axis=1)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def _pack(logits: Logits, targets: NDArray[np.integer]) -> PackedPositions:
    log_p = log_softmax(logits)
    each, k = np.arange(len(targets)), min(HEAD, logits.shape[1])
    head = np.argpartition(logits, -k, axis=1)[:, -k:].astype(np.uint32)
    low, step, codes, tail_mass = _pack_tail(log_p, head)
    packed = PackedPositions(
        codes=codes,
        head_ids=head,
        head_log_probs=np.take_along_axis(log_p, head, axis=1).astype(np.float32),
        low=low,
        step=step,
        tail_mass=tail_mass,
        expected_log_prob=np.zeros(len(targets)),
        argmax=logits.argmax(axis=1).astype(np.uint32),
        target_log_prob=log_p[each, targets],
    )
    packed.expected_log_prob[:] = np.einsum("tv,tv->t", unpack_weights(packed), log_p)
    return packed


def _pack_tail(
    log_p: Doubles, head: NDArray[np.uint32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8], Doubles]:
    """Low, step, codes and mass of everything outside the head."""
    tail = log_p.copy()
    np.put_along_axis(tail, head, -np.inf, axis=1)
    high = np.where(np.isfinite(tail.max(axis=1)), tail.max(axis=1), 0.0)  # an empty tail: any grid will do
    low = np.maximum(log_p.min(axis=1), high - _REACH_NATS).astype(np.float32)
    step = np.maximum((high - low) / _LEVELS[-1], 0.0).astype(np.float32)
    scaled = (log_p - low[:, None]) / np.where(step > 0, step, 1.0)[:, None]
    codes = np.rint(np.clip(scaled, _LEVELS[0], _LEVELS[-1]) - _LEVELS[0]).astype(np.uint8)
    return low, step, codes, np.exp(tail).sum(axis=1)


def _score(packed: PackedPositions, logits: Logits, targets: NDArray[np.integer]) -> Scores:
    values = logits.astype(np.float64)
    normalisers = log_normalisers(values)
    expected = np.einsum("tv,tv->t", unpack_weights(packed), values) - normalisers
    return Scores(
        kld=packed.expected_log_prob - expected,
        agrees=packed.argmax == logits.argmax(axis=1),
        nll=normalisers - values[np.arange(len(targets)), targets],
        nll_reference=-packed.target_log_prob,
    )

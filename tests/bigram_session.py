"""A Session whose next-token logits are a row of a table: a real model, the simplest one, with known distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgepress.runtime.session import ClosingSession, Logits, SessionMemory


class BigramSession(ClosingSession):
    """logits(next | token) = table[token]; ``evaluated`` counts the tokens it was given, ``resets`` the resets."""

    engine = "bigram"
    engine_version = "1"

    def __init__(self, table: NDArray[np.floating], context: int = 1024) -> None:
        self.table = np.asarray(table, dtype=np.float32)
        self.vocab_size = len(self.table)
        self.context_limit = context
        self.evaluated = 0
        self.resets = 0
        self.closed = False
        self._position = 0

    @property
    def position(self) -> int:
        return self._position

    def prefill(self, tokens: Sequence[int], *, logits: Literal["all", "last"] = "all") -> Logits:
        self.check_tokens(tokens, self._position)
        self._position += len(tokens)
        self.evaluated += len(tokens)
        return np.take(self.table, tokens if logits == "all" else tokens[-1:], axis=0)

    def decode(self, token: int) -> Logits:
        return np.asarray(self.prefill([token], logits="last")[0])

    def reset(self) -> None:
        self.resets += 1
        self._position = 0

    def memory(self) -> SessionMemory:
        return SessionMemory(weights_bytes=self.table.nbytes, kv_cache_bytes=0, rss_bytes=0)

    def close(self) -> None:
        self.closed = True


def random_table(vocab: int, spread: float, seed: int) -> NDArray[np.float32]:
    """Logits of a random bigram model; the larger ``spread``, the more peaked its distributions."""
    values = np.random.default_rng(seed).standard_normal((vocab, vocab)) * spread
    return values.astype(np.float32)


def log_softmax(table: NDArray[np.floating]) -> NDArray[np.longdouble]:
    """Log-probabilities in extended precision, straight from the definition."""
    values = table.astype(np.longdouble)
    values = values - values.max(axis=1, keepdims=True)
    return np.asarray(values - np.log(np.exp(values).sum(axis=1, keepdims=True)))

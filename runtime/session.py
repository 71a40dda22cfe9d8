"""Session: the one interface that quality, latency, chat and the parity gate use, whatever the engine.

A session owns a loaded model and one key-value cache. ``prefill`` appends many tokens, ``decode`` one; both return
logits. Positions run on until ``reset``.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Sequence
from types import TracebackType
from typing import Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from edgepress.errors import InputError

Logits = NDArray[np.float32]


class SessionMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine says it holds, in bytes; ``rss_bytes`` is the whole process, as the kernel counts it."""

    weights_bytes: int
    kv_cache_bytes: int
    rss_bytes: int


class Session(Protocol):
    """A model in an engine, with one sequence in its cache."""

    engine: str
    engine_version: str
    vocab_size: int
    context_limit: int

    @property
    def position(self) -> int:
        """Tokens in the cache."""

    def prefill(self, tokens: Sequence[int], *, logits: Literal["all", "last"] = "all") -> Logits:
        """Append tokens to the cache.

        Returns:
            float32, (len(tokens), vocab) with ``logits="all"``, (1, vocab) with ``"last"``.

        Raises:
            InputError: the tokens do not fit the context, or an id is outside the vocabulary.
        """

    def decode(self, token: int) -> Logits:
        """Append one token; return the logits of the next, float32, (vocab,)."""

    def reset(self) -> None:
        """Empty the cache."""

    def memory(self) -> SessionMemory:
        """Bytes held now."""

    def close(self) -> None:
        """Free the model. The session is unusable afterwards."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ClosingSession:
    """Base of the engines: ``with`` closes, and tokens are checked the same way everywhere."""

    vocab_size: int
    context_limit: int

    def close(self) -> None:
        """Free the model."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check_tokens(self, tokens: Sequence[int], position: int) -> None:
        """Refuse tokens that the engine would crash on.

        Raises:
            InputError: too many for the context, none at all, or an id outside the vocabulary.
        """
        if not len(tokens):
            raise InputError("no tokens to evaluate; at least one is needed")
        if position + len(tokens) > self.context_limit:
            raise InputError(
                f"{len(tokens)} tokens at position {position} exceed the context of {self.context_limit}; "
                "shorten the text or open the session with a larger context"
            )
        low, high = min(tokens), max(tokens)
        if low < 0 or high >= self.vocab_size:
            wrong = low if low < 0 else high
            raise InputError(f"token id {wrong} is outside the vocabulary of {self.vocab_size}")


def resident_bytes() -> int:
    """Resident memory of this process now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def return_freed_memory() -> None:
    """Collect what a large model leaves, and give it back to the system, or the next phase adds to it."""
    gc.collect()
    trim_memory()


def trim_memory() -> None:
    """Give freed memory back to the system, which glibc does not do by itself."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

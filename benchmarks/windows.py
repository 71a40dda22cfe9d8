"""Windows of tokens: how a text is cut, what identifies it, and how a session reads it.

A text of N tokens gives N // C windows of C tokens, side by side; what is left at the end is not used. Each window
starts with an empty cache, and its positions 0 to C-2 predict the next token. The protocol that language-model papers
use for GPTQ and the like is the same with C = 2048; llama.cpp's perplexity tool scores only the second half of each
window, so that its numbers are lower.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgepress.benchmarks.kld import Logits
from edgepress.errors import EdgepressError, InputError
from edgepress.runtime.session import Session

Tokens = NDArray[np.integer]

_PIECE_BYTES = 2**28  # logits of one prefill call


def protocol(context: int, *, bos: bool = False) -> str:
    """How windows of ``context`` tokens are scored, in a sentence for the record; ``bos``: each begins with one."""
    added = "each begins with the tokenizer's BOS" if bos else "tokens as given (no token added)"
    return (
        f"non-overlapping windows of {context} tokens, each with an empty cache; positions 0 to {context - 2} predict "
        f"the next token; {added}; natural logarithms; mean over all positions"
    )


def cut_windows(tokens: Sequence[int] | Tokens, context: int, limit: int | None = None) -> NDArray[np.int64]:
    """Cut a text into windows.

    Args:
        tokens: the whole text.
        context: tokens per window, at least 2.
        limit: use at most this many tokens of the text; None uses all.

    Returns:
        int64, (windows, context).

    Raises:
        InputError: not one window's worth of tokens, or a window too short to predict anything.
    """
    if context < 2:
        raise InputError(f"context {context} leaves nothing to predict; at least 2 tokens are needed")
    flat = np.asarray(tokens, dtype=np.int64)[:limit]
    count = len(flat) // context
    if not count:
        raise InputError(
            f"{len(flat)} tokens do not fill one window of {context}; give more text, more tokens or a smaller context"
        )
    return flat[: count * context].reshape(count, context)


def windows_sha256(windows: Tokens) -> str:
    """Identity of token windows: shape and ids, whatever their integer type."""
    array = np.ascontiguousarray(windows, dtype="<i8")
    return hashlib.sha256(repr(array.shape).encode() + array.tobytes()).hexdigest()


def window_logits(session: Session, window: Tokens, name: str) -> Iterator[tuple[slice, Logits]]:
    """Logits of a window's scored positions, piece by piece, so that a large vocabulary stays within 256 MB.

    Args:
        session: reset before it reads.
        window: (C,) token ids.
        name: what to call the window in an error.

    Yields:
        the positions and their logits, (positions, V).

    Raises:
        EdgepressError: a logit is not finite.
        InputError: the window does not fit the session's context.
    """
    size = max(16, _PIECE_BYTES // (4 * session.vocab_size))
    tokens = [int(token) for token in window[:-1]]
    session.reset()
    for start in range(0, len(tokens), size):
        piece = tokens[start : start + size]
        logits = session.prefill(piece)
        finite = np.isfinite(logits).all(axis=1)
        if not finite.all():
            position = start + int(np.argmin(finite))
            raise EdgepressError(
                f"{session.engine} returned NaN or infinite logits in {name} at position {position}; "
                "the model is damaged or overflows in this engine's arithmetic"
            )
        yield slice(start, start + len(piece)), logits

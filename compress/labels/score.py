"""How likely a teacher is to write a verbalizer behind a prompt.

    log p(v | prompt) = Σ_t log p(v_t | prompt, v_1 … v_{t-1})        over the whole token sequence

A label's score is the log-sum-exp over its verbalizers (the probability that the teacher writes any of them, as long as
none begins with another), or the mean of their logarithms. Long verbalizers are not made up for by their length: the
calibration takes off what they cost whatever the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgepress.runtime.session import Session

Array = NDArray[np.float64]


class Scorer(Protocol):
    """A teacher that has been told the verbalizers."""

    def score(self, prompt: Sequence[int]) -> Array:
        """Log-probabilities of the verbalizers behind a prompt, in nats, (verbalizers,)."""


class SessionScorer:
    """A teacher in any engine; a verbalizer of several tokens costs another reading of the prompt."""

    def __init__(self, session: Session, verbalizers: tuple[tuple[int, ...], ...]) -> None:
        self._session, self._verbalizers = session, verbalizers

    def score(self, prompt: Sequence[int]) -> Array:
        """See :class:`Scorer`."""
        first = self._read([*prompt], 1)
        return np.array(
            [
                sequence_log_probability(
                    first if len(tokens) == 1 else self._read([*prompt, *tokens[:-1]], len(tokens)), tokens
                )
                for tokens in self._verbalizers
            ]
        )

    def _read(self, tokens: list[int], wanted: int) -> NDArray[np.float32]:
        self._session.reset()
        return self._session.prefill(tokens, logits="last" if wanted == 1 else "all")[-wanted:]


def sequence_log_probability(logits: NDArray[np.float32], tokens: Sequence[int]) -> float:
    """Log-probability of tokens in nats.

    Args:
        logits: (tokens, vocab), of each token given those before it.
        tokens: ids.
    """
    values = logits.astype(np.float64)
    values = values - values.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(values, np.asarray(tokens)[:, None], axis=1)[:, 0]
    return float((chosen - np.log(np.exp(values).sum(axis=1))).sum())


def label_scores(scores: Array, label_of: Sequence[int], how: Literal["sum", "mean"]) -> Array:
    """Verbalizers' log-probabilities as those of labels.

    Args:
        scores: (texts, verbalizers), in nats.
        label_of: the label of each verbalizer, from 0.
        how: log-sum-exp, or the mean.

    Returns:
        (texts, labels), in nats.
    """
    owners = np.asarray(label_of)
    combine = np.logaddexp.reduce if how == "sum" else np.mean
    return np.stack([combine(scores[:, owners == label], axis=1) for label in range(owners.max() + 1)], axis=1)

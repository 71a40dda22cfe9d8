"""An answer to a conversation, by a model in this process or by one behind an endpoint.

The local half is here: logits z of a session become tokens, greedily or by sampling from softmax(z / T), which the
Gumbel-max trick draws as argmax(z / T + g), g standard Gumbel. An answer is a function of the conversation, the limit,
the temperature and the seed, and of nothing that was asked before: the cache is emptied first.
"""

from __future__ import annotations

from typing import Protocol

import msgspec
import numpy as np

from edgepress.errors import InputError
from edgepress.runtime.dialogue import Codec
from edgepress.runtime.session import Logits, Session

Messages = list[dict[str, str]]
ENDED, CUT = "stop", "length"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What was said, and why it ended, in the words of the chat protocol: ``stop``, ``length`` or another."""

    text: str
    finish: str


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How it is answered: at most ``tokens`` tokens; ``temperature`` 0 is greedy."""

    tokens: int
    temperature: float = 0.0


class Answerer(Protocol):
    """What answers.

    at_once   conversations that it takes at a time
    """

    at_once: int

    def check(self, messages: Messages) -> None:
        """Refuse a conversation that cannot be answered, as far as that is known before it is asked.

        Raises:
            InputError: says why.
        """

    def answer(self, messages: Messages, sampling: Sampling, seed: int | None) -> Answer:
        """Answer a conversation; ``seed`` is of the sampling, None leaves it to the teacher."""

    def give_up(self) -> None:
        """End all waiting, from another thread: nobody wants the answers any more."""


class LocalAnswerer:
    """A session that answers, one conversation after the other."""

    at_once = 1

    def __init__(self, session: Session, codec: Codec) -> None:
        self._session, self._codec = session, codec

    def check(self, messages: Messages) -> None:
        """See :class:`Answerer`."""
        tokens = len(self._codec.chat(messages))
        if tokens >= self._session.context_limit:
            raise InputError(
                f"{tokens} tokens, and the context has {self._session.context_limit}, which leaves no room for an "
                "answer; shorten it or give a larger --context"
            )

    def answer(self, messages: Messages, sampling: Sampling, seed: int | None) -> Answer:
        """See :class:`Answerer`; without a seed it is 0."""
        session, chance = self._session, np.random.default_rng(seed or 0)
        session.reset()
        logits: Logits = session.prefill(self._codec.chat(messages), logits="last")[0]
        written: list[int] = []
        while (token := draw(logits, sampling.temperature, chance)) not in self._codec.stop_ids:
            written.append(token)
            if len(written) == sampling.tokens or session.position >= session.context_limit:
                return Answer(text=self._codec.decode(written), finish=CUT)
            logits = session.decode(token)
        return Answer(text=self._codec.decode(written), finish=ENDED)

    def give_up(self) -> None:
        """Nothing waits here."""


def draw(logits: Logits, temperature: float, chance: np.random.Generator) -> int:
    """A token id from softmax(logits / temperature); the likeliest one at temperature 0.

    Args:
        logits: (vocabulary,).
        temperature: T, not negative.
        chance: draws.
    """
    if not temperature:
        return int(logits.argmax())
    noise = chance.gumbel(size=len(logits))
    return int((logits.astype(np.float64) / temperature + noise).argmax())

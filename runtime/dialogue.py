"""A conversation with a model: a session, the text codec that goes with it, and greedy decoding as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from edgepress.errors import InputError
from edgepress.runtime.gguf_text import GgufCodec
from edgepress.runtime.llamacpp import LlamaCppSession
from edgepress.runtime.locate import ModelFile, open_session
from edgepress.runtime.session import Logits, Session
from edgepress.runtime.text import TextCodec


class Codec(Protocol):
    """Text to tokens and back, as the model's own file has it."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer."""

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids; with ``special``, with what the tokenizer adds to every text."""

    def decode(self, tokens: list[int]) -> str:
        """Text of token ids."""

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a conversation, ready for the assistant's answer."""


class Dialogue:
    """A model that answers."""

    def __init__(self, session: Session, codec: Codec) -> None:
        self.session = session
        self.codec = codec
        self._cached: list[int] = []

    def stream(self, prompt: list[int], tokens: int) -> Iterator[str]:
        """Greedy continuation of a prompt, in pieces of whole characters, at most ``tokens`` tokens.

        What the prompt shares with the conversation so far is not computed again.

        Raises:
            InputError: the prompt leaves no room in the context.
        """
        if len(prompt) >= self.session.context_limit:
            raise InputError(
                f"the conversation has {len(prompt)} tokens, the context {self.session.context_limit}; start a new one"
            )
        logits = self._prefill(prompt)
        written: list[int] = []
        shown = 0
        for _ in range(tokens):
            best = int(logits.argmax())
            if best in self.codec.stop_ids:
                break
            written.append(best)
            text = self.codec.decode(written)
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # half of a character so far
                yield text[shown:]
                shown = len(text)
            if self.session.position >= self.session.context_limit:
                break
            logits = self.session.decode(best)
            self._cached.append(best)
        yield self.codec.decode(written)[shown:]

    def _prefill(self, prompt: list[int]) -> Logits:
        known = len(self._cached)
        if not (known == self.session.position and known < len(prompt) and prompt[:known] == self._cached):
            self.session.reset()
            known = 0
        following: Logits = self.session.prefill(prompt[known:], logits="last")[0]
        self._cached = list(prompt)
        return following


@contextmanager
def open_dialogue(model: ModelFile, *, context: int | None = None, threads: int | None = None) -> Iterator[Dialogue]:
    """Open a model for a conversation; the tokenizer is that of the shipped file.

    Raises:
        InputError: as :func:`~edgepress.runtime.locate.open_session`.
    """
    with open_session(model, context=context, threads=threads) as session:
        codec: Codec = GgufCodec(session) if isinstance(session, LlamaCppSession) else TextCodec(model.path)
        yield Dialogue(session, codec)

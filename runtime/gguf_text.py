"""Text to tokens and back by the tokenizer inside a GGUF file, through llama.cpp: what ships is what talks."""

from __future__ import annotations

from edgepress.runtime.llamacpp import LlamaCppSession
from edgepress.runtime.text import render_template


class GgufCodec:
    """The codec of an open GGUF file; see :class:`~edgepress.runtime.dialogue.Codec`."""

    def __init__(self, session: LlamaCppSession) -> None:
        self._vocabulary = session.vocabulary
        self._template = session.vocabulary.chat_template()
        every = range(session.vocab_size)
        self.stop_ids = frozenset(token for token in every if self._vocabulary.ends_generation(token))

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids; with ``special``, after the BOS that the file asks for."""
        ids = self._vocabulary.tokenize(text, special=True)
        if special and self._vocabulary.add_bos and self._vocabulary.bos_id is not None:
            return [self._vocabulary.bos_id, *ids]
        return ids

    def decode(self, tokens: list[int]) -> str:
        """Text of token ids, control tokens left out; broken characters become the replacement character."""
        pieces = (self._vocabulary.token_bytes(token, control=False) for token in tokens)
        return b"".join(pieces).decode("utf-8", errors="replace")

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a conversation, ready for the assistant's answer; plain lines where there is no template."""
        if self._template is None:
            return self.encode("".join(f"{message['content']}\n" for message in messages), special=True)
        tokens = {name: self._written(token) for name, token in self._named_tokens().items() if token is not None}
        return self.encode(render_template(self._template, messages, tokens, answer=True), special=False)

    def _named_tokens(self) -> dict[str, int | None]:
        return {"bos_token": self._vocabulary.bos_id, "eos_token": self._vocabulary.eos_id}

    def _written(self, token: int) -> str:
        return self._vocabulary.token_bytes(token).decode("utf-8", errors="replace")

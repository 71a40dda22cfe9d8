"""Text to train on: documents cut into windows of tokens, with a mask of the tokens that are to be learned.

    a text                  all of it is learned
    a conversation          in the tokenizer's chat template; learned are the assistant's words and the token that ends
                            them

Documents are packed end to end, so that no window holds padding: a window may begin within one document and end within
another, and attention sees both. After a document of text comes the token that ends an answer, where there is one.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgepress.compress.calibrate.overlap import refuse_overlap
from edgepress.compress.distill.documents import Entry, documents_digest, entries, require_documents
from edgepress.errors import InputError
from edgepress.runtime.text import TextCodec

_HELD_OUT_TOKENS = 4096
_HELD_OUT_SHARE = 8
_PLENTY = 64  # characters per token, that tokenizers hardly reach
_LEAST = 2  # windows with something to learn: one to train on, one held out
_VERSION = 1


@dataclass(frozen=True)
class Text:
    """Windows of a text.

    tokens    int32, (samples, length)
    learned   bool, (samples, length): whether a token is one to be predicted; of the first in a window it says nothing
    """

    tokens: NDArray[np.int32]
    learned: NDArray[np.bool_]

    def __getitem__(self, chosen: Any) -> Text:
        """Some of the windows."""
        return Text(self.tokens[chosen], self.learned[chosen])


class Document(NamedTuple):
    """Token ids, and which of them are learned."""

    tokens: list[int]
    learned: list[bool]


def read_windows(codec: TextCodec, files: tuple[str, ...], length: int) -> Text:
    """All windows of the files, in order; what does not fill the last one is not used.

    Raises:
        InputError: a text cannot be read or holds what is no document; there are fewer than two windows, or none has
            anything to learn.
        MissingExtraError: it is a dataset, and the library that reads them is not installed.
    """
    tokens, learned = array("i"), bytearray()
    for name in files:
        require_documents("text", name)
        for entry in entries(name):
            document = _document(codec, entry)
            tokens.extend(document.tokens)
            learned.extend(document.learned)
    count = len(tokens) // length
    if count < _LEAST:
        raise InputError(
            f"text: {len(tokens)} tokens in {', '.join(files)}, two windows of {length} need {2 * length}; "
            "give more text or a smaller length"
        )
    text = Text(
        np.array(tokens, np.int32)[: count * length].reshape(count, length),
        np.frombuffer(learned, np.bool_)[: count * length].reshape(count, length),
    )
    useful = text[text.learned[:, 1:].any(1)]
    if len(useful.tokens) < _LEAST:
        raise InputError(f"text: no words of the assistant in {', '.join(files)}; there is nothing to learn")
    return useful


def require_windows(codec: TextCodec, files: tuple[str, ...], length: int) -> None:
    """Refuse files of which :func:`read_windows` would make nothing; of long ones the beginnings are enough.

    Raises:
        InputError, MissingExtraError: as there.
    """
    learned, windows, useful = bytearray(), 0, 0
    for name in files:
        require_documents("text", name)
        for entry in entries(name):
            learned.extend(_document(codec, entry._replace(text=entry.text[: _PLENTY * length])).learned)
            while len(learned) >= (windows + 1) * length:
                useful += any(learned[windows * length + 1 : (windows + 1) * length])
                windows += 1
            if useful >= _LEAST:
                break
    if useful < _LEAST:
        read_windows(codec, files, length)


def split(text: Text, seed: int) -> tuple[Text, Text]:
    """What is trained on, and what is held out: an eighth of the windows, 4096 tokens at the most, drawn."""
    count, length = text.tokens.shape
    wanted = max(1, min(count // _HELD_OUT_SHARE, _HELD_OUT_TOKENS // length))
    drawn = np.zeros(count, np.bool_)
    drawn[np.random.default_rng((seed, 0)).permutation(count)[:wanted]] = True
    return text[~drawn], text[drawn]


def draw(text: Text, count: int) -> Text:
    """So many of the windows, or all there are, drawn over the whole text.

    Of a text that a run does not read to its end, no file is passed over because another was named first. The draw does
    not depend on a seed, and a smaller one is the beginning of a larger one: what is cached for one run serves another.
    """
    return text[np.random.default_rng((0, 2)).permutation(len(text.tokens))[:count]]


def held_out_windows(codec: TextCodec, files: tuple[str, ...], training: tuple[str, ...], length: int) -> Text:
    """Windows of files that nothing is trained on, 4096 tokens at the most, drawn over all of them.

    Raises:
        InputError: as :func:`read_windows`, or they share a run of words with the training text.
    """
    text = read_windows(codec, files, length)
    trained, judged = ([entry.words for name in names for entry in entries(name)] for names in (training, files))
    refuse_overlap(
        trained, judged, "name none, and part of the text is held out", "the text to train on and the held-out text"
    )
    return draw(text, max(2, _HELD_OUT_TOKENS // length))


def text_digest(files: tuple[str, ...]) -> str:
    """Changes with the content of any file, and with how it is cut."""
    return hashlib.sha256(repr((_VERSION, [documents_digest(name) for name in files])).encode()).hexdigest()


def _document(codec: TextCodec, entry: Entry) -> Document:
    if entry.messages:
        return conversation(codec, entry.messages, entry.where)
    return _plain(codec, entry.text, end=entry.ends)


def _plain(codec: TextCodec, text: str, *, end: bool) -> Document:
    opening = [] if codec.bos is None else [codec.bos]
    ending = sorted(codec.stop_ids)[:1] if end else []
    words = codec.encode(text, special=False)
    return Document([*opening, *words, *ending], [False] * len(opening) + [True] * (len(words) + len(ending)))


def conversation(codec: TextCodec, messages: list[dict[str, str]], where: str) -> Document:
    """A conversation in the chat template, the assistant's words learned, and the token that ends each turn of them.

    What the template puts before an answer, and after its end, is not learned: at run time it is given.

    Raises:
        InputError: there is no template, or it does not write a turn the same once another follows.
    """
    if codec.template is None:
        raise InputError(f"{where}: a conversation, and the tokenizer has no chat template; give texts instead")
    document, written = Document([], []), ""
    for place, message in enumerate(messages):
        if message["role"] == "assistant":
            opened = codec.render(messages[:place], answer=True)
            answered = codec.render(messages[: place + 1], answer=False)
            _append(document, codec.encode(_after(written, opened, where), special=False), learned=False)
            _append_answer(document, codec, _after(opened, answered, where))
            written = answered
    rest = _after(written, codec.render(messages, answer=False), where)
    _append(document, codec.encode(rest, special=False), learned=False)
    return document


def _after(beginning: str, whole: str, where: str) -> str:
    if not whole.startswith(beginning):
        raise InputError(
            f"{where}: the chat template writes earlier turns anew when another follows, so that the assistant's words "
            "cannot be told apart; give each answer as a conversation that ends with it"
        )
    return whole[len(beginning) :]


def _append(document: Document, tokens: list[int], *, learned: bool) -> None:
    document.tokens.extend(tokens)
    document.learned.extend([learned] * len(tokens))


def _append_answer(document: Document, codec: TextCodec, answer: str) -> None:
    tokens = codec.encode(answer, special=False)
    ends = [place for place, token in enumerate(tokens) if token in codec.stop_ids]
    length = ends[0] + 1 if ends else len(tokens)
    _append(document, tokens[:length], learned=True)
    _append(document, tokens[length:], learned=False)

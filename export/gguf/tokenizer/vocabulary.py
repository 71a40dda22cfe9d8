"""Tokens of a Hugging Face tokenizer as llama.cpp lists them: text, kind and, for some, a score.

llama.cpp knows two tokenizers that the supported families use:

- ``gpt2``, byte-level BPE: token texts in the byte alphabet, merges by rank, and the name of a pre-tokenizer, since
  llama.cpp has the patterns that split the text compiled in (see :mod:`.pre_tokenizer`);
- ``llama``, SentencePiece BPE with byte fallback: no merges; neighbours join in the order of the *score* of what they
  make. Scores come from ``tokenizer.model`` where it is there and agrees; otherwise score = −rank of the first merge
  that makes the token, which orders them alike.
"""

from __future__ import annotations

import re
from enum import IntEnum

import msgspec

from edgepress.errors import InputError
from edgepress.export.gguf.tokenizer.files import AddedToken, TokenizerFiles
from edgepress.export.gguf.tokenizer.sentencepiece_model import read_pieces

ADDED_SCORE = -1000.0
PADDING_SCORE = -10000.0
SPACE = "\u2581"  # SentencePiece's mark for a space

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
# Added tokens that act as control tokens although their tokenizers do not call them special.
_CONTROL = re.compile(r"<\|.*\|>|<\uff5c.*\uff5c>|<unused.*>|<pad>|<mask>|<2mass>|\[@BOS@\]", re.DOTALL)


class Kind(IntEnum):
    """GGUF's token types; SentencePiece's own have the same numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Vocabulary(msgspec.Struct, frozen=True, kw_only=True):
    """``tokens[i]`` is the text of id i. ``scores`` only for ``llama``, ``merges`` only for ``gpt2``."""

    model: str
    tokens: list[str]
    kinds: list[int]
    scores: list[float] | None = None
    merges: list[str] | None = None
    add_space_prefix: bool = False


def read_vocabulary(files: TokenizerFiles, size: int) -> Vocabulary:
    """The vocabulary of a tokenizer, filled up to ``size`` ids with unused tokens.

    Raises:
        InputError: a kind of tokenizer that llama.cpp does not have, or more tokens than the model has rows.
    """
    kind = files.model.get("type", "BPE")
    if kind != "BPE":
        raise InputError(f"{files.directory}: a {kind} tokenizer cannot go into a GGUF file; supported: BPE")
    highest = max(files.model["vocab"].values(), default=0)
    if highest >= size:
        raise InputError(f"{files.directory}: token id {highest} is beyond the model's vocabulary of {size}")
    return _sentencepiece(files, size) if files.model.get("byte_fallback") else _byte_level(files, size)


def _byte_level(files: TokenizerFiles, size: int) -> Vocabulary:
    tokens, kinds = _padded(size)
    for text, token in files.model["vocab"].items():
        tokens[token], kinds[token] = text, Kind.NORMAL
    for added in _within(files.added, size):
        tokens[added.id], kinds[added.id] = added.content, _added_kind(added)
    # A space inside a merge would be taken for the one between its halves; byte-level texts write it as U+0120.
    merges = [" ".join(half.replace(" ", "\u0120") for half in merge) for merge in files.merges]
    return Vocabulary(model="gpt2", tokens=tokens, kinds=kinds, merges=merges)


def _sentencepiece(files: TokenizerFiles, size: int) -> Vocabulary:
    tokens, kinds = _padded(size)
    scores = [PADDING_SCORE] * size
    for text, token, score, kind in _scored(files):
        tokens[token], kinds[token], scores[token] = text, kind, score
    for added in _within(files.added, size):
        kind = _added_kind(added)
        unknown = kinds[added.id] == Kind.UNKNOWN
        tokens[added.id] = added.content.replace(SPACE, " ") if kind == Kind.USER_DEFINED else added.content
        kinds[added.id] = Kind.UNKNOWN if unknown else kind
        scores[added.id] = ADDED_SCORE
    return Vocabulary(
        model="llama", tokens=tokens, kinds=kinds, scores=scores, add_space_prefix=adds_space_prefix(files)
    )


def _scored(files: TokenizerFiles) -> list[tuple[str, int, float, int]]:
    """(text, id, score, kind) of every token of the model part."""
    vocab: dict[str, int] = files.model["vocab"]
    pieces = read_pieces(files.directory / "tokenizer.model")
    skipped = {token.id for token in files.added}
    if pieces and all(
        token in skipped or (token < len(pieces) and pieces[token].text == text) for text, token in vocab.items()
    ):
        return [(piece.text, i, piece.score, piece.kind) for i, piece in enumerate(pieces) if i < len(vocab)]
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(files.merges):
        ranks.setdefault(left + right, rank)
    unknown = files.model.get("unk_token")
    worst = float(len(files.merges))
    return [(text, i, -float(ranks.get(text, worst)), _kind(text, unknown)) for text, i in vocab.items()]


def _kind(text: str, unknown: str | None) -> int:
    if text == unknown:
        return Kind.UNKNOWN
    return Kind.BYTE if _BYTE.fullmatch(text) else Kind.NORMAL


def _added_kind(token: AddedToken) -> Kind:
    return Kind.CONTROL if token.special or _CONTROL.fullmatch(token.content) else Kind.USER_DEFINED


def _within(added: list[AddedToken], size: int) -> list[AddedToken]:
    """Added tokens that the model has rows for; Gemma's text models list an image token that they lack."""
    return [token for token in added if token.id < size]


def _padded(size: int) -> tuple[list[str], list[int]]:
    return [f"[PAD{i}]" for i in range(size)], [Kind.UNUSED] * size


def adds_space_prefix(files: TokenizerFiles) -> bool:
    """Whether a text gets a space in front, by the steps of the tokenizer that can put one there."""
    steps = [*_steps(files.tokenizer.get("normalizer")), *_steps(files.tokenizer.get("pre_tokenizer"))]
    for step in steps:
        if step.get("type") == "Prepend":
            return True
        if step.get("type") == "Metaspace":
            return bool(step.get("prepend_scheme", "always") != "never" and step.get("add_prefix_space", True))
    return False


def _steps(part: dict[str, object] | None) -> list[dict[str, object]]:
    if part is None:
        return []
    inner = part.get("normalizers") or part.get("pretokenizers")
    return list(inner) if isinstance(inner, list) else [part]

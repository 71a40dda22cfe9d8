"""The token list of a GGUF file: texts, kinds, special roles, and the merges of both tokenizer models."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.compress.student.gguf_metadata import GgufMetadata

# Kinds of tokens, as numbered in tokenizer.ggml.token_type.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4

_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}

# Longest token that makes sense where all its halves are tried; real ones stay below 64 characters.
_LONGEST = 512

# Ends of a turn that llama.cpp stops at by their text, whatever the file says; kept to those of the known families.
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end_of_text|>", "<|endoftext|>")


class Vocabulary(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens in order of their ids. ``special`` maps a role (``bos``, ``eos``, ``unk``, ``pad``) to an id."""

    model: str
    tokens: list[str]
    ids: dict[str, int]
    kinds: NDArray[np.int64]
    special: dict[str, int]
    turn_ends: list[int]

    def adds_bos(self, metadata: GgufMetadata, default: bool) -> bool:
        """Whether text begins with the ``bos`` token."""
        return "bos" in self.special and metadata.flag("tokenizer.ggml.add_bos_token", default)

    def added_tokens(self) -> list[dict[str, Any]]:
        """Tokens that are found in the text before it is cut into words, in the form of ``tokenizer.json``."""
        chosen = np.flatnonzero(np.isin(self.kinds, (_UNKNOWN, _CONTROL, _USER_DEFINED)))
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        return [
            {"id": index, "content": self.tokens[index], **plain, "special": bool(self.kinds[index] != _USER_DEFINED)}
            for index in chosen.tolist()
        ]

    def generation_settings(self) -> dict[str, Any]:
        """``generation_config.json``: every token that ends a turn stops the generation."""
        ends = [self.special["eos"]] if "eos" in self.special else []
        ends += [index for index in self.turn_ends if index not in ends]
        roles = [role for role in ("bos", "pad") if role in self.special]
        settings: dict[str, Any] = {f"{role}_token_id": self.special[role] for role in roles}
        return settings | ({"eos_token_id": ends} if ends else {})

    def stored_merges(self, metadata: GgufMetadata) -> list[tuple[str, str]]:
        """The merges in the file, best first.

        Raises:
            InputError: they are missing, or one of them is not two tokens that make a third.
        """
        key = "tokenizer.ggml.merges"
        lines = metadata.raw(key)
        if not isinstance(lines, list):
            raise metadata.fail(key, "is missing or not a list of strings")
        merges = []
        for line in lines:
            # The first half may itself be a space in vocabularies that are not byte-encoded.
            middle, separator, right = line[1:].partition(" ")
            left = line[:1] + middle
            if not separator or left not in self.ids or right not in self.ids or left + right not in self.ids:
                raise metadata.fail(key, f"has the merge {line[:60]!r}, which is not two tokens that make a third")
            merges.append((left, right))
        return merges

    def merges_by_score(self, metadata: GgufMetadata) -> list[tuple[str, str]]:
        """All pairs of tokens that make a token, highest score of the result first.

        Raises:
            InputError: the scores are missing or not one per token.
        """
        key = "tokenizer.ggml.scores"
        scores = metadata.raw(key)
        if not isinstance(scores, np.ndarray) or scores.size != len(self.tokens) or not np.isfinite(scores).all():
            raise metadata.fail(key, f"must be {len(self.tokens)} finite numbers, one per token")
        usable = np.isin(self.kinds, (_NORMAL, _USER_DEFINED))
        merges = []
        for index in np.argsort(-scores, kind="stable").tolist():
            token = self.tokens[index]
            if len(token) > _LONGEST:
                raise metadata.fail("tokenizer.ggml.tokens", f"has a token of {len(token)} characters")
            if usable[index]:
                halves = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
                merges += [(left, right) for left, right in halves if left in self.ids and right in self.ids]
        return merges


def read_vocabulary(metadata: GgufMetadata, vocab: int) -> Vocabulary:
    """Read the token list.

    Raises:
        InputError: there is none, its length is not ``vocab``, or it repeats a token.
    """
    model = metadata.text("tokenizer.ggml.model", "none")
    if model == "none":
        raise metadata.fail("tokenizer.ggml.model", "is missing: the file has no tokenizer")
    tokens = metadata.raw("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or len(tokens) != vocab:
        count = len(tokens) if isinstance(tokens, list) else 0
        raise metadata.fail("tokenizer.ggml.tokens", f"has {count} tokens, but the embedding has {vocab} rows")
    tokens = [token or f"[EMPTY_{index}]" for index, token in enumerate(tokens)]
    ids = {token: index for index, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        index = next(index for index, token in enumerate(tokens) if ids[token] != index)
        raise metadata.fail("tokenizer.ggml.tokens", f"has the token {tokens[index][:60]!r} twice")
    kinds = metadata.raw("tokenizer.ggml.token_type", np.full(vocab, _NORMAL))
    if not isinstance(kinds, np.ndarray) or kinds.size != vocab or kinds.dtype.kind not in "iu":
        raise metadata.fail("tokenizer.ggml.token_type", f"must be {vocab} integers, one per token")
    special = {role: metadata.token_id(f"tokenizer.ggml.{key}_token_id", vocab) for role, key in _ROLES.items()}
    return Vocabulary(
        model=model,
        tokens=tokens,
        ids=ids,
        kinds=kinds.astype(np.int64),
        special={role: index for role, index in special.items() if index is not None},
        turn_ends=_turn_ends(metadata, ids, vocab),
    )


def _turn_ends(metadata: GgufMetadata, ids: dict[str, int], vocab: int) -> list[int]:
    named = [metadata.token_id(f"tokenizer.ggml.{role}_token_id", vocab) for role in ("eot", "eom")]
    known = [ids[text] for text in _TURN_ENDS if text in ids]
    return [index for index in dict.fromkeys([*named, *known]) if index is not None]

"""Special tokens: which ids begin, end and pad a text, and what the tokenizer puts around every text."""

from __future__ import annotations

from typing import Any

import msgspec

from edgepress.errors import InputError
from edgepress.export.gguf.tokenizer.files import TokenizerFiles

# Names in tokenizer_config.json and config.json → GGUF keys below ``tokenizer.ggml``.
_KEYS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",  # spelt so in the GGUF specification
    "pad": "padding_token_id",
    "mask": "mask_token_id",
}

# Tokens that end a turn, in the order of preference. llama.cpp guesses one of several by the order of a hash table.
_END_OF_TURN = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>", "<|endoftext|>")


class SpecialTokens(msgspec.Struct, frozen=True, kw_only=True):
    """``ids``: GGUF key → token id. ``add_bos`` and ``add_eos``: whether every text gets them."""

    ids: dict[str, int]
    add_bos: bool
    add_eos: bool


def read_special_tokens(files: TokenizerFiles, config: dict[str, Any], size: int) -> SpecialTokens:
    """Find the special tokens.

    ``size`` is the number of ids the model has. The names in ``tokenizer_config.json`` come first, the ids in
    ``config.json`` fill the gaps. What is put around a text is what ``tokenizer.json`` does with one, unless
    ``add_bos_token`` or ``add_eos_token`` say otherwise.

    Raises:
        InputError: the tokenizer puts more than one token on a side, which GGUF has no place for.
    """
    known = files.token_ids()
    ids: dict[str, int] = {}
    for name, key in _KEYS.items():
        token = _named(files.settings.get(f"{name}_token"), known)
        token = _configured(config.get(f"{name}_token_id")) if token is None else token
        if token is not None and token < size:
            ids[key] = token
    eot = _end_of_turn(files, known)
    if eot is not None:
        ids["eot_token_id"] = eot
    before, after = _surroundings(files)
    if before:
        ids["bos_token_id"] = before[0]
    if after:
        ids["eos_token_id"] = after[0]
    add_bos = files.settings.get("add_bos_token")
    add_eos = files.settings.get("add_eos_token")
    return SpecialTokens(
        ids=ids,
        add_bos=(bool(before) if not isinstance(add_bos, bool) else add_bos) and "bos_token_id" in ids,
        add_eos=(bool(after) if not isinstance(add_eos, bool) else add_eos) and "eos_token_id" in ids,
    )


def _named(entry: Any, known: dict[str, int]) -> int | None:
    text = entry.get("content") if isinstance(entry, dict) else entry
    return known.get(text) if isinstance(text, str) else None


def _configured(entry: Any) -> int | None:
    first = entry[0] if isinstance(entry, list) and entry else entry
    return first if isinstance(first, int) and first >= 0 else None


def _end_of_turn(files: TokenizerFiles, known: dict[str, int]) -> int | None:
    """The turn's end that the chat template writes, directly or as the EOS token."""
    template = files.chat_template or ""
    for text in _END_OF_TURN:
        if text in template and text in known:
            return known[text]
    return _named(files.settings.get("eos_token"), known) if "eos_token" in template else None


def _surroundings(files: TokenizerFiles) -> tuple[list[int], list[int]]:
    """Ids that ``tokenizer.json`` puts before and after a text."""
    plain = files.reference.encode("a", add_special_tokens=False).ids
    full = files.reference.encode("a", add_special_tokens=True).ids
    start = next((i for i in range(len(full)) if full[i : i + len(plain)] == plain), 0)
    before, after = full[:start], full[start + len(plain) :]
    if len(before) > 1 or len(after) > 1:
        raise InputError(
            f"{files.directory}/tokenizer.json: puts {full} around a text; GGUF can hold one token before and one after"
        )
    return before, after

"""``tokenizer.ggml.pre``: which of llama.cpp's compiled-in patterns splits a text as this tokenizer does.

Byte-level BPE merges within pieces that a few regular expressions cut. Hugging Face writes those into
``tokenizer.json``; llama.cpp only has names for the ones it knows. The names below are found by structure. A structure
that is not here is tried by behaviour, name after name (:mod:`.choice`).

Source of the names and their patterns: llama-vocab.cpp of llama.cpp.
"""

from __future__ import annotations

from typing import Any

from edgepress.export.gguf.tokenizer.files import TokenizerFiles

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_EDGE = r"[^\r\n\p{L}\p{N}]?"
_SLASHED_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

_DIGIT = r"\p{N}"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_TAIL}"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_TAIL}"
_TEKKEN = rf"{_EDGE}{_UPPER}*{_LOWER}+|{_EDGE}{_UPPER}+{_LOWER}*|\p{{N}}|{_SLASHED_TAIL}"
_GPT4O = (
    rf"{_EDGE}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_EDGE}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}|{_SLASHED_TAIL}"
)

# The patterns, each cutting the pieces that the one before it left, and whether a piece that is itself a token skips
# the merges → llama.cpp's name.
_KNOWN: dict[tuple[tuple[str, ...], bool], str] = {
    ((_GPT2,), False): "gpt-2",
    ((_DIGIT, _GPT2), False): "smollm",
    ((_LLAMA3,), True): "llama-bpe",
    ((_LLAMA3,), False): "smaug-bpe",  # llama-bpe's pattern, merges not skipped
    ((_QWEN2,), False): "qwen2",
    ((_TEKKEN,), True): "tekken",
    ((_GPT4O,), False): "gpt-4o",
}

# Tried in this order for an unknown structure: the common ones first, each pattern once.
CANDIDATES = (
    "gpt-2",
    "smollm",
    "llama-bpe",
    "smaug-bpe",
    "qwen2",
    "tekken",
    "gpt-4o",
    "qwen35",
    "deepseek-llm",
    "deepseek-coder",
    "deepseek-v3",
    "falcon",
    "bailingmoe",
    "seed-coder",
    "minicpm5",
    "exaone-moe",
    "viking",
    "bloom",
    "tiny_aya",
    "superbpe",
    "kimi-k2",
    "afmoe",
    "youtu",
    "jais-2",
    "laguna",
)


def known_pre_tokenizer(files: TokenizerFiles) -> str | None:
    """llama.cpp's name for the tokenizer's structure; None when the table does not have it."""
    patterns = _patterns(files.tokenizer.get("pre_tokenizer"))
    if patterns is None:
        return None
    return _KNOWN.get((patterns, bool(files.model.get("ignore_merges"))))


def _patterns(part: dict[str, Any] | None) -> tuple[str, ...] | None:
    """The patterns that a pre-tokenizer cuts by, in order; None when a step of it cuts in another way."""
    kind = None if part is None else part.get("type")
    if part is None or kind is None:
        return None
    if kind == "Sequence":
        inner = [_patterns(step) for step in part.get("pretokenizers") or []]
        return None if None in inner else tuple(pattern for patterns in inner for pattern in patterns or ())
    if kind == "ByteLevel" and not part.get("add_prefix_space"):
        return (_GPT2,) if part.get("use_regex", True) else ()
    if kind == "Digits" and part.get("individual_digits"):
        return (_DIGIT,)
    expression = (part.get("pattern") or {}).get("Regex")
    if kind == "Split" and part.get("behavior") == "Isolated" and not part.get("invert") and expression:
        return (expression,)
    return None

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

_LLAMA3 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_TAIL}"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_TAIL}"
_TEKKEN = rf"{_EDGE}{_UPPER}*{_LOWER}+|{_EDGE}{_UPPER}+{_LOWER}*|\p{{N}}|{_SLASHED_TAIL}"
_GPT4O = (
    rf"{_EDGE}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_EDGE}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_SLASHED_TAIL}"
)

Step = tuple[str, ...]

# The steps of ``pre_tokenizer``, last the one that maps bytes (with GPT-2's own pattern or without), and whether a
# piece that is itself a token skips the merges → llama.cpp's name.
_KNOWN: dict[tuple[tuple[Step, ...], bool], str] = {
    ((("bytes", "pattern"),), False): "gpt-2",
    ((("digits", "single"), ("bytes", "pattern")), False): "smollm",
    ((("split", _LLAMA3), ("bytes",)), True): "llama-bpe",
    ((("split", _LLAMA3), ("bytes",)), False): "smaug-bpe",  # llama-bpe's pattern, merges not skipped
    ((("split", _QWEN2), ("bytes",)), False): "qwen2",
    ((("split", _TEKKEN), ("bytes",)), True): "tekken",
    ((("split", _GPT4O), ("bytes",)), True): "gpt-4o",
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
    steps = _steps(files.tokenizer.get("pre_tokenizer"))
    if steps is None:
        return None
    return _KNOWN.get((steps, bool(files.model.get("ignore_merges"))))


def _steps(part: dict[str, Any] | None) -> tuple[Step, ...] | None:
    """The steps in the table's terms; None when one of them has no such terms."""
    if part is None:
        return None
    if part.get("type") == "Sequence":
        inner = [_steps(step) for step in part.get("pretokenizers") or []]
        return None if None in inner else tuple(step for steps in inner for step in steps or ())
    step = _step(part)
    return None if step is None else (step,)


def _step(part: dict[str, Any]) -> Step | None:
    kind = part.get("type")
    if kind == "ByteLevel" and not part.get("add_prefix_space"):
        return ("bytes", "pattern") if part.get("use_regex", True) else ("bytes",)
    if kind == "Digits" and part.get("individual_digits"):
        return ("digits", "single")
    pattern = part.get("pattern") or {}
    if kind == "Split" and part.get("behavior") == "Isolated" and not part.get("invert") and "Regex" in pattern:
        return ("split", pattern["Regex"])
    return None

"""``tokenizer.ggml.pre``: which of llama.cpp's compiled-in patterns splits a text as this tokenizer does.

Byte-level BPE merges within pieces that a few regular expressions cut. Hugging Face writes those into
``tokenizer.json``; llama.cpp only has names for the ones it knows. The names below are found by structure. A structure
that is not here is tried by behaviour, name after name (:mod:`.choice`).

Source of the names and their patterns: llama-vocab.cpp of llama.cpp.
"""

from __future__ import annotations

from typing import Any

from edgepress.artifact.pre_tokenizers import DIGIT, GPT2, name_for
from edgepress.export.gguf.tokenizer.files import TokenizerFiles

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
    return name_for(patterns, ignore_merges=bool(files.model.get("ignore_merges")))


def _patterns(part: dict[str, Any] | None) -> tuple[str, ...] | None:
    """The patterns that a pre-tokenizer cuts by, in order; None when a step of it cuts in another way."""
    kind = None if part is None else part.get("type")
    if part is None or kind is None:
        return None
    if kind == "Sequence":
        inner = [_patterns(step) for step in part.get("pretokenizers") or []]
        return None if None in inner else tuple(pattern for patterns in inner for pattern in patterns or ())
    if kind == "ByteLevel" and not part.get("add_prefix_space"):
        return (GPT2,) if part.get("use_regex", True) else ()
    if kind == "Digits" and part.get("individual_digits"):
        return (DIGIT,)
    expression = (part.get("pattern") or {}).get("Regex")
    if kind == "Split" and part.get("behavior") == "Isolated" and not part.get("invert") and expression:
        return (expression,)
    return None

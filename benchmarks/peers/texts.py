"""Calibration and evaluation text: one cut to a number of tokens, and a check that the two have nothing in common."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from edgepress.errors import InputError, require

NGRAM = 13


def read(path: Path) -> str:
    """A UTF-8 text file."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from error


def cut_tokens(text: str, tokenizer_dir: Path, *, skip: int, tokens: int) -> str:
    """The part of a text that holds tokens ``skip`` to ``skip + tokens``, and at most one word more.

    Both tools then cut the same windows from it, with nothing left over to choose from.

    Raises:
        InputError: the text is too short.
    """
    tokenizers = require("tokenizers", "compress")
    tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    # Far more characters than needed, so that the offsets of a long file are not all built.
    offsets = tokenizer.encode(text[: 24 * (skip + tokens)], add_special_tokens=False).offsets
    if len(offsets) < skip + tokens + 1:
        raise InputError(f"the calibration text has {len(offsets)} tokens; {skip} + {tokens} are needed, and one more")
    start = 0 if skip == 0 else offsets[skip][0]
    end = offsets[skip + tokens][1]
    return text[start:end]


def shared_ngrams(one: str, other: str, size: int = NGRAM) -> list[str]:
    """Runs of ``size`` words that occur in both texts; case, punctuation and WikiText's ``<unk>`` are ignored."""
    return sorted(_ngrams(one, size) & _ngrams(other, size))


def _ngrams(text: str, size: int) -> set[str]:
    words = [word for word in re.findall(r"\w+", text.lower()) if word != "unk"]
    return {" ".join(words[start : start + size]) for start in range(len(words) - size + 1)}


def refuse_overlap(calibration: str, evaluation: str) -> None:
    """Refuse texts that share a run of words.

    Raises:
        InputError: says how many runs and shows one.
    """
    shared = shared_ngrams(calibration, evaluation)
    if shared:
        raise InputError(
            f"calibration and evaluation text share {len(shared)} runs of {NGRAM} words, such as {shared[0]!r}; "
            "take other text, or skip that part with --calibration-skip"
        )


def describe(path: Path) -> dict[str, str | int]:
    """Name, size and hash of a text file, for the record."""
    data = path.read_bytes()
    return {"path": str(path), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

"""Calibration and evaluation text: read, cut to a number of tokens, described for the record."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgepress.errors import InputError, require


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


def describe(path: Path) -> dict[str, str | int]:
    """Name, size and hash of a text file, for the record."""
    data = path.read_bytes()
    return {"path": str(path), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

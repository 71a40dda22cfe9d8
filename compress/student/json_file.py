"""JSON from outside: an object, or one line that says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgepress.errors import InputError


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        InputError: the file cannot be read, is not JSON, not an object, or repeats a key.
    """
    try:
        return parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """Parse one JSON object, UTF-8.

    Raises:
        InputError: as :func:`read_json`.
    """
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(document, dict):
        raise InputError(f"{where}: wanted a JSON object, got {type(document).__name__}")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"duplicate key {repeated[:80]!r}")
    return document

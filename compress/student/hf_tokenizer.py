"""The tokenizer of a Hugging Face directory: ``tokenizer.json``, or older files that transformers can turn into one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgepress.artifact.cache import cached
from edgepress.artifact.files import sha256_file
from edgepress.errors import InputError, require

TOKENIZER_FILE = "tokenizer.json"
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
_OLDER = ("tokenizer.model", "vocab.json", "merges.txt")


def tokenizer_files(directory: Path) -> tuple[Path, ...]:
    """The files of a directory that define its tokenizer.

    Raises:
        InputError: there is no tokenizer.
    """
    names = (TOKENIZER_FILE, *_SETTINGS) if (directory / TOKENIZER_FILE).is_file() else (*_SETTINGS, *_OLDER)
    files = tuple(directory / name for name in names if (directory / name).is_file())
    if not any(path.name in (TOKENIZER_FILE, "tokenizer.model", "vocab.json") for path in files):
        raise InputError(
            f"{directory}: there is no tokenizer here; wanted {TOKENIZER_FILE} (or tokenizer.model, or vocab.json "
            "and merges.txt)"
        )
    return files


def tokenizer_json_dir(directory: Path, files: tuple[Path, ...]) -> Path:
    """A directory with ``tokenizer.json``: the given one, checked, or one in the cache that transformers converted.

    Raises:
        InputError: the tokenizer is damaged or of a kind that cannot be converted.
    """
    if files[0].name == TOKENIZER_FILE:
        check_tokenizer(files[0])
        return directory
    key = hashlib.sha256("".join(f"{path.name} {sha256_file(path)}\n" for path in files).encode()).hexdigest()
    return cached("tokenizers", key, lambda working: _convert(directory, working))


def check_tokenizer(path: Path) -> None:
    """Load a ``tokenizer.json``, so that a damaged one is found before any work.

    Raises:
        InputError: it cannot be loaded.
    """
    tokenizers = require("tokenizers", "compress")
    try:
        tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"{path}: damaged tokenizer ({_first_line(error)})") from error


def _convert(directory: Path, working: Path) -> None:
    transformers = require("transformers", "compress")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
        tokenizer.save_pretrained(working)
    except Exception as error:  # converters raise whatever their format's library raises
        raise InputError(f"{directory}: the tokenizer cannot be converted ({_first_line(error)})") from error
    check_tokenizer(working / TOKENIZER_FILE)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"

"""A Hugging Face tokenizer directory, read once: ``tokenizer.json`` and what lies beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from edgepress.errors import InputError, require

Document = dict[str, Any]
# In tokenizer_config.json: llama.cpp's name for the way of splitting text, where too few tokens are left to tell it by;
# empty where llama.cpp has none.
PRE_TOKENIZER = "llama_cpp_pre_tokenizer"


class AddedToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token that is matched in the text before anything else happens to it."""

    id: int
    content: str
    special: bool


class TokenizerFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a tokenizer directory that a GGUF file is made from.

    ``reference`` is the ``tokenizers.Tokenizer`` of the same file: what it does is what llama.cpp must do.
    """

    directory: Path
    tokenizer: Document
    reference: Any
    settings: Document
    chat_template: str | None

    @property
    def model(self) -> Document:
        """The ``model`` part: type, vocabulary, merges."""
        return dict(self.tokenizer["model"])

    @property
    def added(self) -> list[AddedToken]:
        """Added tokens in the order of their ids."""
        entries = self.tokenizer.get("added_tokens") or []
        tokens = [AddedToken(id=e["id"], content=e["content"], special=bool(e.get("special"))) for e in entries]
        return sorted(tokens, key=lambda token: token.id)

    @property
    def merges(self) -> list[tuple[str, str]]:
        """Merges in order of rank; both ways of writing them are in use."""
        found = []
        for merge in self.model.get("merges") or []:
            left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
            found.append((left, right))
        return found

    def token_ids(self) -> dict[str, int]:
        """Text → id, added tokens included."""
        return dict(self.model.get("vocab") or {}) | {token.content: token.id for token in self.added}


def read_tokenizer_files(directory: Path) -> TokenizerFiles:
    """Read a tokenizer directory.

    Raises:
        InputError: no ``tokenizer.json``, or one that cannot be read.
        MissingExtraError: the tokenizers package is not installed.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise InputError(
            f"{path}: not found; GGUF export needs the fast tokenizer (in Python: "
            "transformers.AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR))"
        )
    tokenizer = _json(path)
    model = tokenizer.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("type", "BPE"), str):
        raise InputError(f"{path}: no tokenizer model inside")
    settings = _json(directory / "tokenizer_config.json")
    # Old files leave the names of the special tokens to a file of their own.
    for name, value in _json(directory / "special_tokens_map.json").items():
        settings.setdefault(name, value)
    return TokenizerFiles(
        directory=directory,
        tokenizer=tokenizer,
        reference=_reference(path),
        settings=settings,
        chat_template=_chat_template(directory, settings),
    )


def _reference(path: Path) -> Any:
    """The library's reading of the file, which also finds whatever is wrong with it."""
    tokenizers = require("tokenizers", "gguf")
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises a bare Exception
        raise InputError(f"{path}: cannot be read as a tokenizer ({' '.join(str(error).split())})") from error


def _chat_template(directory: Path, settings: Document) -> str | None:
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = settings.get("chat_template") or _json(directory / "chat_template.json").get("chat_template")
    if isinstance(template, list):  # named templates; "default" is the one for chatting
        template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
    return template if isinstance(template, str) else None


def _json(path: Path) -> Document:
    """A JSON object; empty when there is no such file."""
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: wanted a JSON object")
    return document

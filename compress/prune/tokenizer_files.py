"""A tokenizer's files with some tokens left out and the others numbered anew.

Ids stand in more places than the vocabulary: added tokens, what a post-processor puts around a text, and the settings
that name the beginning and the end of an answer. Files that repeat the vocabulary in older forms are not written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.compress.prune.vocabulary import kept_merges, merges_of
from edgepress.errors import InputError

Document = dict[str, Any]
_AS_THEY_ARE = ("special_tokens_map.json", "chat_template.jinja")
_LISTS = ("suppress_tokens", "begin_suppress_tokens")
_LISTS_OF_LISTS = ("bad_words_ids", "force_words_ids")
_AFFIXES = ("continuing_subword_prefix", "end_of_word_suffix")


def require_byte_pairs(document: Document, where: str) -> None:
    """Refuse a tokenizer whose tokens are not made by plain merges.

    Raises:
        InputError: says what it is.
    """
    model = document.get("model") or {}
    kind = model.get("type", "BPE")
    if kind != "BPE" or not isinstance(model.get("vocab"), dict) or not model.get("merges"):
        raise InputError(f"{where}: trim_vocabulary wants a BPE tokenizer with merges; this is {kind}")
    if found := [name for name in _AFFIXES if model.get(name)]:
        raise InputError(f"{where}: trim_vocabulary cannot follow merges with a {found[0]}")


def new_ids(kept: NDArray[np.int32]) -> dict[int, int]:
    """Old id → new id."""
    return {int(old): new for new, old in enumerate(kept)}


def trimmed_tokenizer(document: Document, ids: Mapping[int, int]) -> Document:
    """A ``tokenizer.json`` with the tokens of ``ids`` only, under their new ids."""
    if gone := sorted(_ids_around(document.get("post_processor")) - ids.keys()):
        raise InputError(
            f"trim_vocabulary: the tokenizer puts token {gone[0]} around a text, and the model has no row for it"
        )
    model = dict(document["model"])
    vocabulary = {text: ids[old] for text, old in model["vocab"].items() if old in ids}
    places = kept_merges(merges_of(model), set(vocabulary))
    model |= {"vocab": vocabulary, "merges": [model["merges"][place] for place in places]}
    added = [entry | {"id": ids[entry["id"]]} for entry in document.get("added_tokens") or [] if entry["id"] in ids]
    around = _post_processor(document.get("post_processor"), ids)
    return document | {"model": model, "added_tokens": added, "post_processor": around, "padding": None}


def with_new_ids(settings: Document, ids: Mapping[int, int]) -> Document:
    """Settings with new ids under ``…_token_id``, ``added_tokens_decoder`` and the lists of tokens that generation
    avoids; those of no token are left out.
    """
    found: Document = {}
    for key, value in settings.items():
        if key in _LISTS and isinstance(value, list):
            found[key] = [ids[old] for old in value if old in ids]
        elif key in _LISTS_OF_LISTS and isinstance(value, list):
            found[key] = [[ids[old] for old in each] for each in value if all(old in ids for old in each)]
        elif key == "added_tokens_decoder":
            found[key] = {str(ids[int(old)]): entry for old, entry in value.items() if int(old) in ids}
        elif not key.endswith("_token_id") or value is None:
            found[key] = value
        elif isinstance(value, list):
            found[key] = [ids[old] for old in value if old in ids]
        elif value in ids:
            found[key] = ids[value]
    return found


def named_ids(settings: Document) -> set[int]:
    """The ids that settings name under ``…_token_id``."""
    found: set[int] = set()
    for key, value in settings.items():
        if key.endswith("_token_id") and value is not None:
            found.update(value if isinstance(value, list) else [value])
    return found


def fixed_ids(source: Path, document: Document) -> set[int]:
    """The ids that the settings of generation and the post-processor name."""
    path = source / "generation_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return named_ids(settings) | _ids_around(document.get("post_processor"))


def _ids_around(step: Any) -> set[int]:
    """The ids that a post-processor puts around a text."""
    if not isinstance(step, dict):
        return set()
    found = {old for inner in step.get("processors", []) for old in _ids_around(inner)}
    tokens = step.get("special_tokens")
    found |= {old for token in (tokens.values() if isinstance(tokens, dict) else ()) for old in token["ids"]}
    return found | {step[name][1] for name in ("cls", "sep") if name in step}


def write_trimmed(source: Path, target: Path, document: Document, ids: Mapping[int, int]) -> None:
    """Write the tokenizer's files and the settings of generation into ``target``."""
    _dump(target / "tokenizer.json", trimmed_tokenizer(document, ids))
    for name in ("tokenizer_config.json", "generation_config.json"):
        if (source / name).is_file():
            _dump(target / name, with_new_ids(json.loads((source / name).read_text(encoding="utf-8")), ids))
    for name in _AS_THEY_ARE:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _post_processor(step: Any, ids: Mapping[int, int]) -> Any:
    """What is put around a text, by new ids."""
    if not isinstance(step, dict):
        return step
    found = dict(step)
    if "processors" in step:
        found["processors"] = [_post_processor(inner, ids) for inner in step["processors"]]
    if isinstance(step.get("special_tokens"), dict):
        found["special_tokens"] = {
            name: token | {"ids": [ids[old] for old in token["ids"]]} for name, token in step["special_tokens"].items()
        }
    for name in ("cls", "sep"):
        if name in step:
            found[name] = [step[name][0], ids[step[name][1]]]
    return found


def _dump(path: Path, document: Document) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

"""Documents of a text to train on, one after the other.

*.txt                   one document
*.jsonl                 one a line, {"text": "…"} or {"messages": [{"role": "…", "content": "…"}, …]}
a folder                one a row of a Hugging Face dataset on disk, as ``save_to_disk`` writes it, of columns text
                        or messages
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from edgepress.artifact.files import sha256_file
from edgepress.compress.calibrate.tokens import read_text, require_file
from edgepress.errors import InputError, require, require_installed

_COLUMNS = ("text", "messages")
_LIBRARY, _STATE, _AT_ONCE = "datasets", "state.json", 1000
_WANTED = 'wanted {"text": "…"} or {"messages": [{"role": "…", "content": "…"}, …]}'


class Entry(NamedTuple):
    """One document: a text, or a conversation where there are messages.

    where   file and line, for messages about it
    ends    whether something other may follow in the same file
    """

    text: str
    messages: list[dict[str, str]]
    where: str
    ends: bool = True

    @property
    def words(self) -> str:
        """Its words, without system messages, which conversations have in common."""
        said = [message["content"] for message in self.messages if message["role"] != "system"]
        return "\n".join([self.text, *said]) if said else self.text


def require_documents(field: str, name: str) -> None:
    """Refuse what is neither a file nor a dataset.

    Raises:
        InputError: ``name``, which ``field`` lists, is not there, or a folder of something else.
        MissingExtraError: it is a dataset, and the library that reads them is not installed.
    """
    path = Path(name)
    if not path.is_dir():
        require_file(field, name)
        return
    if splits := sorted(part.parent.name for part in path.glob(f"*/{_STATE}")):
        chosen = path / ("train" if "train" in splits else splits[0])
        raise InputError(f"{field}: {name}: holds the datasets {', '.join(splits)}; give one, as {chosen}")
    if not (path / _STATE).is_file():
        raise InputError(f"{field}: {name}: a directory, and no dataset that save_to_disk wrote; list its text files")
    require_installed(_LIBRARY, _LIBRARY)


def entries(name: str) -> Iterator[Entry]:
    """The documents of a file or a dataset, in order.

    Raises:
        InputError: it cannot be read, or a line or row is neither text nor conversation.
    """
    path = Path(name)
    if path.is_dir():
        for number, row in enumerate(_rows(path)):
            yield _entry(_given(row), f"{path}, row {number}")
    elif path.suffix == ".jsonl":
        for number, line in enumerate(read_text(path).split("\n"), start=1):
            if line.strip():
                yield _entry(_parsed(line, f"{path}:{number}"), f"{path}:{number}")
    else:
        yield Entry(read_text(path), [], name, ends=False)


def documents_digest(name: str) -> str:
    """Changes with the content of a file, or of a dataset's data, beside which its library keeps other things."""
    path = Path(name)
    if not path.is_dir():
        return sha256_file(path)
    try:
        files = [each["filename"] for each in json.loads(read_text(path / _STATE))["_data_files"]]
        return hashlib.sha256(repr([sha256_file(path / file) for file in files]).encode()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: the dataset cannot be read ({error})") from error


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    library: Any = require(_LIBRARY, _LIBRARY)
    try:
        dataset = library.load_from_disk(str(path)).with_format(None)
        kept = [column for column in dataset.column_names if column in _COLUMNS]
        if not kept:
            raise InputError(f"{path}: has the columns {', '.join(dataset.column_names)}; wanted text or messages")
        for batch in dataset.select_columns(kept).iter(_AT_ONCE):
            for row in zip(*batch.values(), strict=True):
                yield dict(zip(kept, row, strict=True))
    except InputError:
        raise
    except Exception as error:  # of Arrow, JSON or the file system, whatever is damaged
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: the dataset cannot be read ({first})") from error


def _given(value: Any) -> Any:
    """Without what is None: Arrow gives every message the fields that any of them has."""
    if isinstance(value, dict):
        return {name: _given(each) for name, each in value.items() if each is not None}
    return [_given(each) for each in value] if isinstance(value, list) else value


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error})") from error


def _entry(row: Any, where: str) -> Entry:
    if isinstance(row, dict):
        text, messages = row.get("text"), row.get("messages")
        if isinstance(messages, list) and messages and all(map(_is_message, messages)):
            return _checked(Entry("", messages, where))
        if messages is None and isinstance(text, str):
            return _checked(Entry(text, [], where))
    raise InputError(f"{where}: {_WANTED}")


def _is_message(message: object) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def _checked(entry: Entry) -> Entry:
    try:
        json.dumps([entry.text, entry.messages], ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError) as error:  # half of a pair of surrogates, or a time in a column
        raise InputError(f"{entry.where}: not JSON ({error})") from error
    return entry

"""``tokenizer.ggml.pre`` of any tokenizer: from the table by structure, otherwise the first name that behaves alike."""

from __future__ import annotations

import struct
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from edgepress.errors import InputError
from edgepress.export.gguf.tokenizer.check import compare, reference_tokens
from edgepress.export.gguf.tokenizer.files import PRE_TOKENIZER, TokenizerFiles, read_tokenizer_files
from edgepress.export.gguf.tokenizer.pre_tokenizer import CANDIDATES, known_pre_tokenizer
from edgepress.export.gguf.tokenizer.vocabulary import Vocabulary, read_vocabulary
from edgepress.export.gguf.tokenizer.write import write_vocabulary


def choose_pre_tokenizer(files: TokenizerFiles, size: int) -> str:
    """llama.cpp's name for how the tokenizer splits text before merging.

    Raises:
        InputError: no name that llama.cpp has behaves like this tokenizer.
    """
    known = files.settings.get(PRE_TOKENIZER, known_pre_tokenizer(files))
    if known == "":
        raise _no_name(files.directory)
    if known is not None:
        return str(known)
    changed = (files.directory / "tokenizer.json").stat().st_mtime_ns
    return _by_behaviour(files.directory, size, changed)


@lru_cache(maxsize=8)  # asked for when the size is predicted and again when the file is written
def _by_behaviour(directory: Path, size: int, _changed: int) -> str:
    reference = reference_tokens(directory)
    with TemporaryDirectory(prefix="edgepress-") as working:
        path = Path(working) / "vocabulary.gguf"
        _write_vocabulary(path, read_vocabulary(read_tokenizer_files(directory), size))
        # The name is the file's last string: exchanging it is far quicker than writing the vocabulary anew.
        unnamed = path.read_bytes()[: -len(_string(CANDIDATES[0]))]
        for name in CANDIDATES:
            path.write_bytes(unnamed + _string(name))
            if _behaves(path, reference):
                return name
    raise _no_name(directory)


def _no_name(directory: Path) -> InputError:
    return InputError(
        f"{directory}/tokenizer.json: llama.cpp has no pre-tokenizer that splits text like this one "
        f"({len(CANDIDATES)} tried); it cannot go into a GGUF file"
    )


def _write_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    write_vocabulary(writer, vocabulary)
    writer.add_tokenizer_pre(CANDIDATES[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def _string(text: str) -> bytes:
    """A string as GGUF has it."""
    return struct.pack("<Q", len(text)) + text.encode()


def _behaves(path: Path, reference: dict[str, list[int]]) -> bool:
    try:
        return not compare(path, reference)
    except InputError:  # a name that this llama.cpp does not have
        return False

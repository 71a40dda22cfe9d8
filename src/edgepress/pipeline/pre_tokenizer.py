"""The name of a tokenizer's way of splitting text, handed on to what has fewer tokens.

llama.cpp has these ways compiled in, and knows them by name. One that is not found by its structure is found by what
the tokenizer does, for which it needs its whole vocabulary: with few merges left many ways look alike.
"""

from __future__ import annotations

import json
from pathlib import Path

from edgepress.compress.student.student import Student
from edgepress.errors import InputError, MissingExtraError


def keep_pre_tokenizer(student: Student, directory: Path) -> None:
    """Write the name into the settings of the smaller tokenizer in ``directory``, where only behaviour tells it."""
    try:
        from edgepress.export.gguf.tokenizer.choice import choose_pre_tokenizer
        from edgepress.export.gguf.tokenizer.files import PRE_TOKENIZER, read_tokenizer_files
        from edgepress.export.gguf.tokenizer.pre_tokenizer import known_pre_tokenizer

        files = read_tokenizer_files(student.tokenizer_dir)
        if known_pre_tokenizer(files) is not None or files.model.get("byte_fallback"):
            return
        name = choose_pre_tokenizer(files, student.spec.vocab)
    except MissingExtraError:
        return
    except InputError:  # llama.cpp has none: nor has it one for fewer tokens
        name = ""
    path = directory / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(settings | {PRE_TOKENIZER: name}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

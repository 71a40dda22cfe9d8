"""The files beside an encoder's weights: tokenizer, image processor, and what sentence-transformers reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from edgepress.compress.student.json_file import read_json

_COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "preprocessor_config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
)
_POOLING = Path("1_Pooling") / "config.json"


def copy_companions(source: Path, target: Path, *, width: int) -> None:
    """Copy what is there.

    Args:
        source: directory of the larger model.
        target: of the smaller; exists.
        width: of the smaller model's states, which sentence-transformers' pooling wants to know.

    Raises:
        InputError: the pooling's file is damaged.
    """
    for name in _COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    if (source / _POOLING).is_file():
        pooling = read_json(source / _POOLING) | {"word_embedding_dimension": width}
        (target / _POOLING).parent.mkdir()
        (target / _POOLING).write_text(json.dumps(pooling, indent=2) + "\n", encoding="utf-8")

"""The tokenizer's metadata of a GGUF file."""

from __future__ import annotations

from typing import Any

from edgepress.export.gguf.tokenizer.special import SpecialTokens
from edgepress.export.gguf.tokenizer.vocabulary import Vocabulary


def write_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    """Add the tokens to a ``gguf.GGUFWriter``; the name of the pre-tokenizer is the caller's to add."""
    writer.add_add_space_prefix(vocabulary.add_space_prefix)
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_token_list(vocabulary.tokens)
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
    writer.add_token_types([int(kind) for kind in vocabulary.kinds])
    if vocabulary.merges is not None:
        writer.add_token_merges(vocabulary.merges)


def write_special_tokens(writer: Any, special: SpecialTokens, chat_template: str | None) -> None:
    """Add the special tokens' ids and the chat template.

    Whether a BOS is added is always written: llama.cpp's default for a missing key depends on the pre-tokenizer.
    """
    for key, token in special.ids.items():
        writer.add_uint32(f"tokenizer.ggml.{key}", token)
    writer.add_add_bos_token(special.add_bos)
    writer.add_add_eos_token(special.add_eos)
    if chat_template:
        writer.add_chat_template(chat_template)

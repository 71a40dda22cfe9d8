"""A Hugging Face tokenizer directory → the tokenizer metadata of a GGUF file, and the check that it behaves alike."""

from __future__ import annotations

from typing import Any

from edgepress.artifact.plan import ModelPlan
from edgepress.export.gguf.tokenizer.check import check_tokenizer, tokenizer_differences
from edgepress.export.gguf.tokenizer.choice import choose_pre_tokenizer
from edgepress.export.gguf.tokenizer.files import read_tokenizer_files
from edgepress.export.gguf.tokenizer.special import read_special_tokens
from edgepress.export.gguf.tokenizer.vocabulary import read_vocabulary
from edgepress.export.gguf.tokenizer.write import write_special_tokens, write_vocabulary

__all__ = ["add_tokenizer", "check_tokenizer", "tokenizer_differences"]


def add_tokenizer(writer: Any, plan: ModelPlan) -> None:
    """Add the tokenizer of ``plan.tokenizer_dir`` to a ``gguf.GGUFWriter``.

    Raises:
        InputError: there is none, or it is of a kind that llama.cpp does not have.
    """
    files = read_tokenizer_files(plan.tokenizer_dir)
    size = plan.spec.vocab
    vocabulary = read_vocabulary(files, size)
    pre = choose_pre_tokenizer(files, size) if vocabulary.merges is not None else "default"
    writer.add_tokenizer_pre(pre)
    write_vocabulary(writer, vocabulary)
    write_special_tokens(writer, read_special_tokens(files, plan.config, size), files.chat_template)

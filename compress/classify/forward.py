"""Texts through a classifier: token ids, padded batches, features and logits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.compress.classify.student import ClassifierStudent
from edgepress.errors import InputError, require

_TEXTS_AT_ONCE = 16


def encode_texts(student: ClassifierStudent, texts: Sequence[str], length: int) -> list[list[int]]:
    """Token ids of texts with what the tokenizer puts around them, cut to a length.

    Raises:
        InputError: the length is more than the student takes.
    """
    limit = _tokens_limit(student, length)
    if length > limit:
        raise InputError(f"length: {length} tokens; {student.begun} takes {limit}")
    tokenizers = require("tokenizers", "compress")
    tokenizer = tokenizers.Tokenizer.from_file(str(student.tokenizer_dir / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(length)
    filler = [_padding(student)]  # a text without tokens still needs one
    return [list(encoded.ids) or filler for encoded in tokenizer.encode_batch(list(texts))]


def batch_of(student: ClassifierStudent, tokens: Sequence[list[int]]) -> dict[str, torch.Tensor]:
    """Texts as the model's inputs, padded behind to the longest."""
    longest = max(map(len, tokens))
    ids = torch.full((len(tokens), longest), _padding(student))
    mask = torch.zeros_like(ids)
    for row, each in enumerate(tokens):
        ids[row, : len(each)] = torch.tensor(each)
        mask[row, : len(each)] = 1
    return {"input_ids": ids, "attention_mask": mask}


@torch.inference_mode()
def features_of(student: ClassifierStudent, tokens: Sequence[list[int]]) -> NDArray[np.float64]:
    """What the last linear layer reads of each text, (texts, features)."""
    read: list[torch.Tensor] = []
    hook = student.linear.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].detach()))
    rows: list[NDArray[np.float64]] = []
    try:
        for places in in_pieces(tokens, _TEXTS_AT_ONCE):
            read.clear()
            batch = batch_of(student, [tokens[place] for place in places])
            student.model(**batch)
            states = read[-1]
            if states.dim() == 3:  # a decoder's head reads every token; transformers takes the last that is no padding
                words = batch["input_ids"] != _padding(student)
                last = (torch.arange(words.shape[1]) * words).argmax(1)
                states = states[torch.arange(len(places)), last]
            rows.append(states.double().numpy())
    finally:
        hook.remove()
    return _in_order(rows, tokens)


@torch.inference_mode()
def logits_of(student: ClassifierStudent, tokens: Sequence[list[int]]) -> NDArray[np.float64]:
    """The model's answers, (texts, labels)."""
    rows = [
        student.model(**batch_of(student, [tokens[place] for place in places])).logits.double().numpy()
        for places in in_pieces(tokens, _TEXTS_AT_ONCE)
    ]
    return _in_order(rows, tokens)


def in_pieces(tokens: Sequence[list[int]], each: int) -> list[NDArray[np.intp]]:
    """Places of texts of like length together, at most so many in a piece."""
    order = np.argsort([len(text) for text in tokens], kind="stable")
    return [order[start : start + each] for start in range(0, len(order), each)]


def _in_order(rows: list[NDArray[np.float64]], tokens: Sequence[list[int]]) -> NDArray[np.float64]:
    found = np.concatenate(rows)
    ordered = np.empty_like(found)
    ordered[np.concatenate(in_pieces(tokens, _TEXTS_AT_ONCE))] = found
    return ordered


def _tokens_limit(student: ClassifierStudent, otherwise: int) -> int:
    """Tokens that the table of positions has room for; RoBERTa's counts from behind its padding id."""
    limit = int(getattr(student.model.config, "max_position_embeddings", otherwise))
    tables = [part for name, part in student.model.named_modules() if name.endswith("position_embeddings")]
    before = getattr(tables[0], "padding_idx", None) if tables else None
    return limit if before is None else limit - before - 1


def _padding(student: ClassifierStudent) -> int:
    return int(student.model.config.pad_token_id or 0)

"""The trim_vocabulary step: a model with fewer tokens, and what a text costs with them.

The embedding and the head lose rows and nothing else changes, so the logits of the tokens that stay are those of the
whole model to the bit. What is lost is that a text takes more tokens, and that the probability of those that are gone
goes to the others. Both show in the bits that a byte of text takes, which do not depend on how it is cut.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.artifact.checkpoint import CheckpointWriter
from edgepress.artifact.families import EMBEDDING, HEAD, LAYER
from edgepress.artifact.weights import WeightSource
from edgepress.compress.calibrate.one_dnn import linear
from edgepress.compress.prune.config import TrimVocabulary
from edgepress.compress.prune.tokenizer_files import (
    Document,
    fixed_ids,
    named_ids,
    new_ids,
    require_byte_pairs,
    with_new_ids,
    write_trimmed,
)
from edgepress.compress.prune.vocabulary import kept_tokens, merges_of, token_parts
from edgepress.compress.search.divergence import final_states
from edgepress.errors import InputError
from edgepress.progress import progress
from edgepress.runtime.text import TextCodec

_TOKENS_AT_ONCE = 128  # of which all logits are held


def read_tokenizer(source: WeightSource) -> Document:
    """The student's ``tokenizer.json``.

    Raises:
        InputError: it is not made of plain merges.
    """
    path = source.tokenizer_dir / "tokenizer.json"
    document: Document = json.loads(path.read_text(encoding="utf-8"))
    require_byte_pairs(document, str(path))
    return document


def cut_pieces(texts: Iterable[str], most_bytes: int) -> list[str]:
    """Texts in pieces of at most so many bytes, and so tokens, cut between lines where these are not longer."""
    pieces: list[str] = []
    for text in texts:
        piece, size = "", 0
        for line in _lines(text, most_bytes):
            if piece and size + len(line.encode()) > most_bytes:
                pieces.append(piece)
                piece, size = "", 0
            piece, size = piece + line, size + len(line.encode())
        pieces.append(piece)
    return [piece for piece in pieces if piece.strip()]


def _lines(text: str, most_bytes: int) -> Iterator[str]:
    characters = max(1, most_bytes // 4)  # none takes more bytes than four
    for line in text.splitlines(keepends=True):
        yield from (line[start : start + characters] for start in range(0, len(line), characters))


def choose_tokens(source: WeightSource, step: TrimVocabulary, texts: Mapping[str, int]) -> NDArray[np.int32]:
    """The ids that stay, ascending, by how often the texts use them.

    Args:
        source: the model.
        step: how many stay.
        texts: text → how often it counts.

    Raises:
        InputError: the tokens that cannot go are more than ``keep`` leaves, or the tokenizer has more than the model.
    """
    document, rows = read_tokenizer(source), source.spec.vocab
    model, vocabulary = document["model"], document["model"]["vocab"]
    if (highest := max(vocabulary.values())) >= rows:
        raise InputError(f"{source.tokenizer_dir}: token id {highest} is beyond the model's vocabulary of {rows}")
    added = {entry["id"] for entry in document.get("added_tokens") or [] if entry["id"] < rows}
    fixed = added | named_ids(source.config) | fixed_ids(source.tokenizer_dir, document)
    fixed.add(vocabulary.get(model.get("unk_token") or "", -1))
    counts = np.full(rows, -1, np.int64)
    counts[[*vocabulary.values(), *added]] = 0
    codec = TextCodec(source.tokenizer_dir)
    with progress("trim_vocabulary (count)", len(texts)) as advance:
        for text, times in texts.items():
            counts += times * np.bincount(codec.encode(text, special=False), minlength=rows)[:rows]
            advance(1)
    parts = token_parts(vocabulary, merges_of(model), byte_fallback=bool(model.get("byte_fallback")))
    free = {token: pieces for token, pieces in parts.items() if token not in fixed}
    size = math.ceil(step.keep * rows / step.multiple_of) * step.multiple_of
    return kept_tokens(counts, free, min(size, int((counts >= 0).sum())))


def write_model(source: WeightSource, kept: NDArray[np.int32], directory: Path, *, name: str) -> None:
    """Write the model with these tokens as a float32 checkpoint into ``directory``, which exists and is empty."""
    spec, ids = source.spec, new_ids(kept)
    writer = CheckpointWriter(directory, shards=spec.depth + 1)
    with progress("trim_vocabulary (write)", spec.depth + 1) as advance:
        for index in range(spec.depth):
            shard = {key: source.read(key) for key in source.names if key.startswith(LAYER.format(i=index))}
            writer.write_shard(shard, dict.fromkeys(shard, "f32"))
            advance(1)
        rest = {key: source.read(key) for key in source.names if not key.startswith(LAYER.partition("{")[0])}
        rest |= {key: rest[key][kept] for key in (EMBEDDING, HEAD) if key in rest}
        writer.write_shard(rest, dict.fromkeys(rest, "f32"))
        advance(1)
    write_trimmed(source.tokenizer_dir, directory, read_tokenizer(source), ids)
    config = with_new_ids(source.config, ids) | {"vocab_size": len(kept), "tie_word_embeddings": spec.tied}
    writer.finish(config, name)


def count_tokens(source: WeightSource, texts: Sequence[str]) -> int:
    """How many tokens texts take."""
    codec = TextCodec(source.tokenizer_dir)
    return sum(len(codec.encode(text, special=False)) for text in texts)


def bits_per_byte(source: WeightSource, texts: Sequence[str]) -> float:
    """What a byte of texts costs by a model, in bits, each text from its beginning.

    Args:
        source: the model.
        texts: none empty, each within the model's context.
    """
    codec = TextCodec(source.tokenizer_dir)
    start = _start_token(source, codec)
    rows = [[start, *codec.encode(text, special=False)] for text in texts]
    windows = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for row, tokens in enumerate(rows):
        windows[row, : len(tokens)] = tokens  # what is put behind a text does not reach it: attention looks back
    states = final_states(source, windows)
    head = torch.from_numpy(source.read(HEAD if HEAD in source.names else EMBEDDING))
    nats = sum(_nats(states[row, : len(tokens) - 1], torch.tensor(tokens[1:]), head) for row, tokens in enumerate(rows))
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)


@torch.inference_mode()
def _nats(states: torch.Tensor, wanted: torch.Tensor, head: torch.Tensor) -> float:
    """What the tokens of a text cost, in nats. Shapes: (n, hidden), (n,), (vocabulary, hidden)."""
    total = 0.0
    for part, tokens in zip(states.split(_TOKENS_AT_ONCE), wanted.split(_TOKENS_AT_ONCE), strict=True):
        logits = linear(part, head)
        total += float(torch.nn.functional.cross_entropy(logits, tokens, reduction="sum"))
    return total


def _start_token(source: WeightSource, codec: TextCodec) -> int:
    """The token that stands before a text, so that its first can be scored as well: the BOS, or else the EOS."""
    named = [source.config.get(f"{name}_token_id") for name in ("bos", "eos")]
    known = [name[0] if isinstance(name, list) else name for name in named if name not in (None, [])]
    return next((token for token in (codec.bos, *known) if isinstance(token, int)), 0)

"""Which tokens of a byte-pair vocabulary can go: the fewest more tokens for a text, and never a text without any.

A token is made by merges, so it stands on others: ``parts`` are the pieces that the last merge of its own text joins
("hel" + "lo"). Without it the text is cut into those parts: each use costs one token more, or where a character is cut
into bytes, one less than there are. So tokens go one by one, the cheapest first, and their uses are added to those of
their parts. Only what nothing that stays is made of can go; bytes, characters that no bytes stand for, and added tokens
never do.

A merge stays if both halves and the result do. A word whose tokens all stay is then cut as before: every merge on the
way to them is among those that stay, and at each step the first of a few is the first of all.

Where tokens are looked up whole before any merge (``ignore_merges``), and where a vocabulary has tokens that its merges
do not reach, the parts are what the merges do make of the text.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
Merges = Sequence[tuple[str, str]]


def kept_tokens(counts: NDArray[np.int64], parts: Mapping[int, tuple[int, ...]], size: int) -> NDArray[np.int32]:
    """The ids that stay, ascending.

    Args:
        counts: (vocabulary,), how often each token occurs in the text; negative where there is no token.
        parts: id → ids that stand for it without it, for each token that may go.
        size: how many stay.

    Raises:
        InputError: more than that have to stay.
    """
    uses = [int(count) for count in counts]
    stays = {token for token, count in enumerate(uses) if count >= 0}
    holds = [0] * len(uses)  # tokens that stay and are made of this one
    for pieces in parts.values():
        for piece in set(pieces):
            holds[piece] += 1

    def entry(token: int) -> tuple[int, int]:
        # Of tokens alike the latest goes first: merges are learnt in the order of how much they were used.
        return uses[token] * (len(parts[token]) - 1), -token

    queue = [entry(token) for token in parts if not holds[token]]
    heapq.heapify(queue)
    while len(stays) > size:
        if not queue:
            raise InputError(
                f"trim_vocabulary: {size} tokens are to stay, and bytes, characters and added tokens alone are "
                f"{len(stays)}; raise keep"
            )
        cost, token = heapq.heappop(queue)
        token = -token
        if token not in stays or cost != entry(token)[0]:
            continue  # an entry from before its uses grew
        stays.remove(token)
        for piece in parts[token]:
            uses[piece] += uses[token]
        for piece in set(parts[token]):
            holds[piece] -= 1
            if piece in parts and not holds[piece]:
                heapq.heappush(queue, entry(piece))
    return np.asarray(sorted(stays), np.int32)


def token_parts(vocabulary: Mapping[str, int], merges: Merges, *, byte_fallback: bool) -> dict[int, tuple[int, ...]]:
    """Id → ids that the text is cut into without that token; tokens that have to stay are not among them.

    Args:
        vocabulary: token's text → id, without added tokens.
        merges: in order of rank.
        byte_fallback: whether a character without a token is cut into tokens of its bytes.
    """
    ranks: dict[tuple[str, str], int] = {}
    for rank, pair in enumerate(merges):
        ranks.setdefault(pair, rank)
    found = {}
    for text, token in vocabulary.items():
        if byte_fallback and _BYTE.fullmatch(text):
            continue
        pieces = _bytes_of(text) if len(text) == 1 and byte_fallback else _last_pieces(text, ranks)
        if len(pieces) > 1 and all(piece in vocabulary for piece in pieces):
            found[token] = tuple(vocabulary[piece] for piece in pieces)
    return found


def kept_merges(merges: Merges, kept: set[str]) -> list[int]:
    """Places of the merges whose halves and results all stay."""
    return [
        place for place, (left, right) in enumerate(merges) if left in kept and right in kept and left + right in kept
    ]


def merges_of(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The merges of a ``tokenizer.json``'s model in order of rank; both ways of writing them are in use."""
    found = []
    for merge in model.get("merges") or []:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        found.append((left, right))
    return found


def _last_pieces(text: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """What a text is cut into before the merge that makes it whole; what merges make of it where none does."""
    pieces = list(text)
    while len(pieces) > 1:
        pairs = list(pairwise(pieces))
        known = [place for place, pair in enumerate(pairs) if pair in ranks]
        if len(pieces) == 2 or not known:
            break
        place = min(known, key=lambda place: (ranks[pairs[place]], place))
        pieces[place : place + 2] = ["".join(pairs[place])]
    return pieces


def _bytes_of(character: str) -> list[str]:
    return [f"<0x{byte:02X}>" for byte in character.encode()]

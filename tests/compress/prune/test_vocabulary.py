"""Tokens that a text can do without go, and what is left cuts every text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_models import CORPUS
from tiny_tokenizers import SPACE, TEXT, byte_level, sentencepiece_like
from tokenizers import Tokenizer, decoders, pre_tokenizers

from edgepress.compress.prune.tokenizer_files import new_ids, require_byte_pairs, trimmed_tokenizer
from edgepress.compress.prune.vocabulary import kept_tokens, merges_of, token_parts
from edgepress.errors import InputError
from edgepress.export.gguf.tokenizer.check import EDGE_TEXTS, HARD_TEXTS

Document = dict[str, Any]
TEXTS = (
    *HARD_TEXTS,
    *EDGE_TEXTS,
    *TEXT.splitlines(),
    "a word nobody learnt: zyxwvut",
    "<|im_start|>user\nhi<|im_end|>",
)


def plain(directory: Path) -> Path:
    return byte_level(directory, [pre_tokenizers.ByteLevel(add_prefix_space=False)])


def whole_words(directory: Path) -> Path:
    return byte_level(directory, [pre_tokenizers.ByteLevel(add_prefix_space=False)], ignore_merges=True)


def spaced(directory: Path) -> Path:
    return sentencepiece_like(directory, prefix=True)


KINDS = (plain, whole_words, spaced)
MakeTokenizer = Callable[[Path], Path]


@pytest.fixture(params=KINDS, ids=lambda make: str(make.__name__))
def document(request: pytest.FixtureRequest, tmp_path: Path) -> Document:
    directory = request.param(tmp_path / "tokenizer")
    found: Document = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    return found


def tokenizer(document: Document) -> Tokenizer:
    found = Tokenizer.from_str(json.dumps(document))
    if document["model"]["byte_fallback"]:
        steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        found.decoder = decoders.Sequence(steps)
    return found


def rows(document: Document) -> int:
    added = [entry["id"] for entry in document["added_tokens"]]
    return 1 + int(max(*added, *document["model"]["vocab"].values()))


def parts(document: Document) -> dict[int, tuple[int, ...]]:
    model, added = document["model"], {entry["id"] for entry in document["added_tokens"]}
    found = token_parts(model["vocab"], merges_of(model), byte_fallback=model["byte_fallback"])
    return {token: pieces for token, pieces in found.items() if token not in added}


def counts(document: Document, text: str) -> NDArray[np.int64]:
    ids = tokenizer(document).encode(text, add_special_tokens=False).ids
    return np.bincount(ids, minlength=rows(document))


def trim(document: Document, text: str, size: int) -> tuple[Document, dict[int, int]]:
    ids = new_ids(kept_tokens(counts(document, text), parts(document), size))
    return trimmed_tokenizer(document, ids), ids


def test_a_text_whose_tokens_all_stay_is_cut_as_before(document: Document) -> None:
    smaller, ids = trim(document, CORPUS, rows(document) - 90)
    before, after, alike = tokenizer(document), tokenizer(smaller), 0
    words = {word for text in TEXTS for word in (text, *text.split())}
    for text in words:
        old = before.encode(text).ids
        if all(token in ids for token in old):
            assert after.encode(text).ids == [ids[token] for token in old], text
            alike += 1
    assert alike > len(words) / 4


def test_no_text_becomes_unreadable(document: Document) -> None:
    before, after = tokenizer(document), tokenizer(trim(document, CORPUS, len(counts(document, "")) - 150)[0])
    for text in TEXTS:
        assert after.decode(after.encode(text).ids) == before.decode(before.encode(text).ids)


def test_the_first_to_go_is_the_one_whose_loss_costs_fewest_tokens(document: Document) -> None:
    """Against every single token that could go, with the text cut anew by the tokenizers library each time."""
    everything = np.arange(rows(document))
    made_of = {piece for pieces in parts(document).values() for piece in pieces}
    costs = {}
    for token in parts(document).keys() - made_of:
        without = trimmed_tokenizer(document, new_ids(np.delete(everything, token).astype(np.int32)))
        costs[token] = len(tokenizer(without).encode(TEXT).ids)
    kept = kept_tokens(counts(document, TEXT), parts(document), rows(document) - 1)
    (gone,) = set(everything.tolist()) - set(kept.tolist())
    assert costs[gone] == min(costs.values())
    assert max(costs.values()) > min(costs.values())


def test_uses_of_a_token_that_goes_are_those_of_its_parts() -> None:
    # 0 to 3 are bytes; 4 = 0 1, 5 = 4 2, 6 = 2 3. 5 is used least, and then 4 has its uses: 6 is the next.
    uses = np.asarray([9, 9, 9, 9, 2, 3, 4], np.int64)
    made_of = {4: (0, 1), 5: (4, 2), 6: (2, 3)}
    assert kept_tokens(uses, made_of, 6).tolist() == [0, 1, 2, 3, 4, 6]
    assert kept_tokens(uses, made_of, 5).tolist() == [0, 1, 2, 3, 4]
    assert kept_tokens(uses, made_of, 4).tolist() == [0, 1, 2, 3]


def test_what_stays_is_made_of_what_stays(document: Document) -> None:
    kept = set(kept_tokens(counts(document, CORPUS), parts(document), rows(document) - 120).tolist())
    assert len(kept) == rows(document) - 120
    assert all(set(pieces) <= kept for token, pieces in parts(document).items() if token in kept)
    assert set(range(rows(document))) - parts(document).keys() <= kept


def test_what_is_put_around_a_text_has_its_new_ids(tmp_path: Path) -> None:
    directory = spaced(tmp_path / "tokenizer")
    document = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    first = document["added_tokens"][1]["id"]
    document["post_processor"] = {
        "type": "Sequence",
        "processors": [
            document["post_processor"],
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
        ],
    }
    smaller, ids = trim(document, CORPUS, 400)
    assert tokenizer(smaller).encode("a").ids[0] == ids[first]


def test_a_character_costs_as_many_tokens_as_its_bytes_but_one() -> None:
    # 3 is a character of three bytes, used ten times; 4 a pair, used fifteen times: 20 tokens more or 15.
    uses, made_of = np.asarray([0, 0, 0, 10, 15], np.int64), {3: (0, 1, 2), 4: (0, 1)}
    assert kept_tokens(uses, made_of, 4).tolist() == [0, 1, 2, 3]


def test_what_stands_around_a_pair_of_texts_has_its_new_ids(tmp_path: Path) -> None:
    document = json.loads((plain(tmp_path / "tokenizer") / "tokenizer.json").read_text(encoding="utf-8"))
    document["post_processor"] = {
        "type": "RobertaProcessing",
        "cls": ["<|im_start|>", 1],
        "sep": ["x", document["model"]["vocab"]["x"]],
        "trim_offsets": True,
        "add_prefix_space": False,
    }
    smaller, ids = trim(document, CORPUS, 400)
    around = smaller["post_processor"]
    assert around["cls"] == ["<|im_start|>", ids[1]]
    assert around["sep"] == ["x", ids[document["model"]["vocab"]["x"]]]
    with pytest.raises(InputError, match="puts token 1 around a text"):
        trimmed_tokenizer(document, {old: new for old, new in ids.items() if old != 1})


def test_fewer_tokens_than_bytes_and_added_ones_are_refused(document: Document) -> None:
    fixed = rows(document) - len(parts(document))
    assert len(kept_tokens(counts(document, TEXT), parts(document), fixed)) == fixed
    with pytest.raises(InputError, match=f"{fixed - 1} tokens are to stay, .* alone are {fixed}; raise keep"):
        kept_tokens(counts(document, TEXT), parts(document), fixed - 1)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"type": "WordPiece", "vocab": {"a": 0}}, "this is WordPiece"),
        ({"type": "Unigram", "vocab": [["a", 0.0]]}, "this is Unigram"),
        ({"type": "BPE", "vocab": {"a": 0}, "merges": ["a a"], "end_of_word_suffix": "</w>"}, "end_of_word_suffix"),
    ],
)
def test_other_tokenizers_are_refused(model: Document, said: str) -> None:
    with pytest.raises(InputError, match=said):
        require_byte_pairs({"model": model}, "there")

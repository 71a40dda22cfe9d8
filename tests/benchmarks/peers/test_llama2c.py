"""A llama2.c model read here computes and tokenizes what llama2.c does, by a plain reading of its C program."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgepress.benchmarks.peers.llama2c import SPACE, read_checkpoint, write_student
from edgepress.errors import InputError

Array = NDArray[np.float64]

WIDTH, INNER, DEPTH, HEADS, KV_HEADS, CONTEXT = 24, 36, 2, 3, 1, 32
WORDS = {"a": -1.0, "b": -2.0, " ": -3.0, "ab": -5.0, "ba": -4.0, " a": -7.0, "aba": -6.0, "abab": -8.0}
VOCAB = 259 + len(WORDS)
ORDER = ("embedding", "attention norm", "q", "k", "v", "o", "ffn norm", "gate", "down", "up", "final norm")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, dict[str, Array]]:
    """A random checkpoint, its tokenizer, and the same weights in float64, (layers, …) each."""
    kv = WIDTH // HEADS * KV_HEADS
    shapes = [(VOCAB, WIDTH), (DEPTH, WIDTH), (DEPTH, WIDTH, WIDTH), (DEPTH, kv, WIDTH), (DEPTH, kv, WIDTH)]
    shapes += [(DEPTH, WIDTH, WIDTH), (DEPTH, WIDTH), (DEPTH, INNER, WIDTH), (DEPTH, WIDTH, INNER)]
    shapes += [(DEPTH, INNER, WIDTH), (WIDTH,)]
    rng = np.random.default_rng(0)
    tensors = [rng.normal(0.0, 0.3, shape).astype(np.float32) for shape in shapes]
    header = struct.pack("<7i", WIDTH, INNER, DEPTH, HEADS, KV_HEADS, VOCAB, CONTEXT)
    rotary = np.zeros(CONTEXT * WIDTH // HEADS, np.float32)
    checkpoint, tokenizer = tmp_path / "model.bin", tmp_path / "tokens.bin"
    checkpoint.write_bytes(header + b"".join(tensor.tobytes() for tensor in [*tensors, rotary]))
    fixed = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256))]
    entries = [*((text, 0.0) for text in fixed), *WORDS.items()]
    packed = (struct.pack("<fi", score, len(text.encode())) + text.encode() for text, score in entries)
    tokenizer.write_bytes(struct.pack("<i", 8) + b"".join(packed))
    return checkpoint, tokenizer, {name: tensor.astype(float) for name, tensor in zip(ORDER, tensors, strict=True)}


def llama2c_logits(tokens: list[int], w: dict[str, Array]) -> Array:
    """run.c's forward pass, position by position, in float64."""

    def norm(x: Array, gain: Array) -> Array:
        return np.asarray(x / np.sqrt(np.mean(x * x) + 1e-5) * gain)

    def rotate(x: Array, position: int) -> Array:
        turned = x.copy()
        for i in range(0, x.size, 2):
            angle = position / 10000.0 ** ((i % (WIDTH // HEADS)) / (WIDTH // HEADS))
            c, s = np.cos(angle), np.sin(angle)
            turned[i], turned[i + 1] = x[i] * c - x[i + 1] * s, x[i] * s + x[i + 1] * c
        return turned

    size, logits = WIDTH // HEADS, []
    keys: list[list[Array]] = [[] for _ in range(DEPTH)]
    values: list[list[Array]] = [[] for _ in range(DEPTH)]
    for position, token in enumerate(tokens):
        x = w["embedding"][token]
        for n in range(DEPTH):
            inner = norm(x, w["attention norm"][n])
            query = rotate(w["q"][n] @ inner, position)
            keys[n].append(rotate(w["k"][n] @ inner, position))
            values[n].append(w["v"][n] @ inner)
            heads = []
            for head in range(HEADS):
                at = slice(head // (HEADS // KV_HEADS) * size, (head // (HEADS // KV_HEADS) + 1) * size)
                scores = np.array([query[head * size : (head + 1) * size] @ key[at] for key in keys[n]]) / size**0.5
                share = np.exp(scores - scores.max())
                heads.append(share / share.sum() @ np.array([value[at] for value in values[n]]))
            x = x + w["o"][n] @ np.concatenate(heads)
            inner = norm(x, w["ffn norm"][n])
            gate = w["gate"][n] @ inner
            x = x + w["down"][n] @ (gate / (1 + np.exp(-gate)) * (w["up"][n] @ inner))
        logits.append(w["embedding"] @ norm(x, w["final norm"]))
    return np.array(logits)


def test_transformers_computes_the_logits_of_run_c(files: tuple[Path, Path, dict[str, Array]], tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    checkpoint, tokenizer, weights = files
    write_student(checkpoint, tokenizer, tmp_path / "student")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "student").double()
    tokens = [1, 260, 263, 7, 261, 266, 130]
    with torch.inference_mode():
        logits = model(torch.tensor([tokens])).logits[0].numpy()
    np.testing.assert_allclose(logits, llama2c_logits(tokens, weights), atol=1e-6)


def merge_best(text: str) -> list[str]:
    """llama2.c's encoder: letters, then again and again the neighbours whose union scores best, the first of equals."""
    pieces = list(" " + text)
    while True:
        pairs = [(WORDS[a + b], -i) for i, (a, b) in enumerate(pairwise(pieces)) if a + b in WORDS]
        if not pairs:
            return pieces
        at = -max(pairs)[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]


@pytest.mark.parametrize("text", ["ab", "abab", "ba ab", "aabbab a", "babab"])
def test_text_is_cut_as_by_llama2c(files: tuple[Path, Path, dict[str, Array]], tmp_path: Path, text: str) -> None:
    from tokenizers import Tokenizer

    write_student(files[0], files[1], tmp_path / "student")
    tokens = Tokenizer.from_file(str(tmp_path / "student" / "tokenizer.json")).encode(text).tokens
    assert [token.replace(SPACE, " ") for token in tokens] == ["<s>", *merge_best(text)]


def test_a_file_that_is_cut_short_says_within_what(files: tuple[Path, Path, dict[str, Array]], tmp_path: Path) -> None:
    short = tmp_path / "short.bin"
    short.write_bytes(files[0].read_bytes()[: 28 + 4 * (VOCAB + 1) * WIDTH])
    with pytest.raises(InputError, match=r"ends within model\.layers\.1\.input_layernorm\.weight"):
        read_checkpoint(short)


def test_an_untied_head_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "untied.bin"
    file.write_bytes(struct.pack("<7i", WIDTH, INNER, DEPTH, HEADS, KV_HEADS, -VOCAB, CONTEXT))
    with pytest.raises(InputError, match="tied head"):
        read_checkpoint(file)

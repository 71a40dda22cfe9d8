"""A llama2.c checkpoint and its tokenizer → a Hugging Face directory with float32 weights.

Small natural models come in this format: trained from nothing in float32, never rounded, in widths (64, 172) that are
no multiples of 256, and partly not of 32. A checkpoint is seven integers and then the tensors, layer after layer of one
kind, before those of the next; a tokenizer is a list of (score, bytes). llama2.c rotates neighbouring values of a head
together, Hugging Face the two halves: the rows of q and k are reordered.

Format: https://github.com/karpathy/llama2.c, ``export.py`` and ``tokenizer.py``.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from edgepress.artifact.families import EMBEDDING, FINAL_NORM, LAYER
from edgepress.artifact.files import atomic_directory
from edgepress.errors import InputError, require

Array = NDArray[np.float32]

UNKNOWN, BEGIN, END = 0, 1, 2
SPACE = "\u2581"
# The first 259 tokens: unknown, begin, end, and the 256 bytes.
BYTES_END = 259


class Header(NamedTuple):
    """The seven integers at the start; ``vocab`` is negative where the head is not tied to the embedding."""

    width: int
    inner: int
    depth: int
    heads: int
    kv_heads: int
    vocab: int
    context: int


def read_checkpoint(path: Path) -> tuple[Header, dict[str, Array]]:
    """Shape and tensors by Hugging Face's names.

    Raises:
        InputError: the file is not a llama2.c checkpoint with a tied head, or is cut short.
    """
    data = path.read_bytes()
    if len(data) < 28:
        raise InputError(f"{path}: no llama2.c checkpoint, which begins with seven integers")
    header = Header(*struct.unpack_from("<7i", data))
    if min(header) < 1 or header.width % header.heads:
        raise InputError(f"{path}: no llama2.c checkpoint with a tied head; its first integers are {tuple(header)}")
    values = np.frombuffer(data, "<f4", offset=28, count=(len(data) - 28) // 4)
    tensors: dict[str, Array] = {}
    for name, shape in _layout(header):
        size = int(np.prod(shape))
        if values.size < size:
            raise InputError(f"{path}: ends within {name}")
        tensors[name], values = values[:size].reshape(shape).copy(), values[size:]
    for name in tensors:
        heads = {"q_proj": header.heads, "k_proj": header.kv_heads}.get(name.split(".")[-2])
        if heads:
            tensors[name] = halves_together(tensors[name], heads)
    return header, tensors


def halves_together(weight: Array, heads: int) -> Array:
    """Rows (head, pair, 2) → (head, 2, pair): the two of a rotated pair end up half a head apart."""
    paired = weight.reshape(heads, -1, 2, weight.shape[1])
    return np.ascontiguousarray(paired.swapaxes(1, 2).reshape(weight.shape))


def _layout(header: Header) -> list[tuple[str, tuple[int, ...]]]:
    width, inner = header.width, header.inner
    kv = width // header.heads * header.kv_heads
    kinds: list[tuple[str, tuple[int, ...]]] = [
        ("input_layernorm", (width,)),
        ("self_attn.q_proj", (width, width)),
        ("self_attn.k_proj", (kv, width)),
        ("self_attn.v_proj", (kv, width)),
        ("self_attn.o_proj", (width, width)),
        ("post_attention_layernorm", (width,)),
        ("mlp.gate_proj", (inner, width)),
        ("mlp.down_proj", (width, inner)),
        ("mlp.up_proj", (inner, width)),
    ]
    layers = [
        (LAYER.format(i=index) + f"{kind}.weight", shape) for kind, shape in kinds for index in range(header.depth)
    ]
    return [(EMBEDDING, (header.vocab, width)), *layers, (FINAL_NORM, (width,))]


def read_tokens(path: Path, count: int) -> tuple[list[str], list[float]]:
    """Texts, as SentencePiece writes them, and scores.

    Raises:
        InputError: the file ends early or a text is not UTF-8.
    """
    data, at = path.read_bytes(), 4
    texts, scores = [], []
    try:
        for _ in range(count):
            score, length = struct.unpack_from("<fi", data, at)
            texts.append(data[at + 8 : at + 8 + length].decode().replace(" ", SPACE))
            scores.append(score)
            at += 8 + length
    except (struct.error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no llama2.c tokenizer of {count} tokens ({error})") from error
    texts[:BYTES_END] = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    return texts, scores


def write_tokenizer(texts: list[str], scores: list[float], out: Path) -> None:
    """Write the tokenizer for Hugging Face (``tokenizer.json``) and for llama.cpp's converter (``tokenizer.model``)."""
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True}
    settings |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    document = json.dumps(_tokenizer(texts, scores), ensure_ascii=False, indent=1)
    (out / "tokenizer.json").write_text(document, encoding="utf-8")
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
    _write_sentencepiece(texts, scores, out / "tokenizer.model")


def _tokenizer(texts: list[str], scores: list[float]) -> dict[str, Any]:
    """BPE over whole texts with a space in front, bytes for what has no token, the begin token before everything."""
    escape = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    unescape = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    text: list[dict[str, Any]] = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    return {
        "version": "1.0",
        "added_tokens": [{"id": index, "content": texts[index], **plain} for index in (UNKNOWN, BEGIN, END)],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, escape]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, text[0]],
            "pair": [begin, *text],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [BEGIN], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [unescape, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]},
        "model": _merging(texts, scores),
    }


def _merging(texts: list[str], scores: list[float]) -> dict[str, Any]:
    """The merges: all pairs of tokens that make a token, that of the highest score first."""
    ids = {text: index for index, text in enumerate(texts)}
    best_first = sorted(range(BYTES_END, len(texts)), key=lambda index: -scores[index])
    halves = [(texts[index][:cut], texts[index][cut:]) for index in best_first for cut in range(1, len(texts[index]))]
    merges = [pair for pair in halves if pair[0] in ids and pair[1] in ids]
    model = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    return model | {"vocab": ids, "merges": merges}


def _write_sentencepiece(texts: list[str], scores: list[float], path: Path) -> None:
    proto = require("sentencepiece.sentencepiece_model_pb2", "dev").ModelProto()
    proto.trainer_spec.model_type = 2  # BPE
    proto.trainer_spec.byte_fallback = True
    proto.trainer_spec.vocab_size = len(texts)
    proto.normalizer_spec.add_dummy_prefix = True
    proto.normalizer_spec.remove_extra_whitespaces = False
    kinds = {UNKNOWN: 2, BEGIN: 3, END: 3}
    for index, (text, score) in enumerate(zip(texts, scores, strict=True)):
        kind = kinds.get(index, 6 if index < BYTES_END else 1)
        proto.pieces.add(piece=text, score=score, type=kind)
    path.write_bytes(proto.SerializeToString())


def write_student(checkpoint: Path, tokenizer: Path, out: Path) -> None:
    """Write the Hugging Face directory of a llama2.c model.

    Raises:
        InputError: see :func:`read_checkpoint` and :func:`read_tokens`; or ``out`` exists.
    """
    header, tensors = read_checkpoint(checkpoint)
    texts, scores = read_tokens(tokenizer, header.vocab)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": header.width,
        "intermediate_size": header.inner,
        "num_hidden_layers": header.depth,
        "num_attention_heads": header.heads,
        "num_key_value_heads": header.kv_heads,
        "max_position_embeddings": header.context,
        "vocab_size": header.vocab,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "bos_token_id": BEGIN,
        "eos_token_id": END,
        "dtype": "float32",
    }
    with atomic_directory(out) as working:
        save_file(tensors, working / "model.safetensors", metadata={"format": "pt"})
        (working / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        write_tokenizer(texts, scores, working)

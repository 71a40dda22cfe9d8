"""The tokenizer inside a GGUF file → a Hugging Face tokenizer directory in the cache.

Two models are understood: ``gpt2``, byte-level BPE with its merges in the file, and ``llama``, SentencePiece BPE. The
latter has no merges: a pair may be merged when the result is a token, the one with the highest score first, and so the
merges follow from the scores. transformers' own conversion is not used: it does not read ``tokenizer.ggml.pre``, and
so splits digits, say, as another model would.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from edgepress.artifact.cache import cached
from edgepress.artifact.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from edgepress.compress.student.gguf_metadata import GgufMetadata
from edgepress.compress.student.gguf_vocabulary import Vocabulary, read_vocabulary
from edgepress.errors import InputError, require

# Goes into the cache's key: counted up when the same file would give another tokenizer.
_VERSION = 1

_SPACE = "\u2581"


def tokenizer_dir(metadata: GgufMetadata, vocab: int) -> Path:
    """The converted tokenizer, made on the first call.

    Args:
        metadata: of the GGUF file.
        vocab: rows of the embedding, which the token list must match.

    Raises:
        InputError: there is no tokenizer, or one that is damaged or of an unsupported kind.
    """
    vocabulary = read_vocabulary(metadata, vocab)
    template = _TEMPLATES.get(vocabulary.model)
    if template is None:
        known = ", ".join(_TEMPLATES)
        raise metadata.fail("tokenizer.ggml.model", f"= {vocabulary.model[:40]!r} is not supported; supported: {known}")
    files = {
        "tokenizer.json": template(metadata, vocabulary) | {"added_tokens": vocabulary.added_tokens()},
        "tokenizer_config.json": _settings(metadata, vocabulary),
        "generation_config.json": vocabulary.generation_settings(),
    }
    texts = {name: json.dumps(content, ensure_ascii=False, indent=1) + "\n" for name, content in files.items()}
    key = hashlib.sha256(f"{_VERSION} {sorted(texts.items())}".encode(errors="surrogatepass")).hexdigest()
    return cached("tokenizers", key, lambda working: _write(metadata.path, texts, working))


def _write(path: Path, texts: dict[str, str], working: Path) -> None:
    for name, text in texts.items():
        (working / name).write_text(text, encoding="utf-8")
    tokenizers = require("tokenizers", "compress")
    try:
        tokenizers.Tokenizer.from_file(str(working / "tokenizer.json"))
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"{path}: damaged tokenizer ({str(error).splitlines()[0][:200]})") from error


def _settings(metadata: GgufMetadata, vocabulary: Vocabulary) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata.count(".context_length"),
        "add_bos_token": vocabulary.adds_bos(metadata, default=_adds_bos(metadata, vocabulary)),
    }
    settings |= {f"{role}_token": vocabulary.tokens[index] for role, index in vocabulary.special.items()}
    if metadata.has("tokenizer.chat_template"):
        settings["chat_template"] = metadata.text("tokenizer.chat_template")
    return settings


def _adds_bos(metadata: GgufMetadata, vocabulary: Vocabulary) -> bool:
    if vocabulary.model != "gpt2":
        return True
    return _words(metadata).add_bos


def _words(metadata: GgufMetadata) -> PreTokenizer:
    name = metadata.text("tokenizer.ggml.pre", "default")
    if name not in PRE_TOKENIZERS:
        known = ", ".join(PRE_TOKENIZERS)
        raise metadata.fail("tokenizer.ggml.pre", f"= {name[:40]!r} is not supported; supported: {known}")
    return PRE_TOKENIZERS[name]


def _byte_level(metadata: GgufMetadata, vocabulary: Vocabulary) -> dict[str, Any]:
    words = _words(metadata)
    cuts = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in words.patterns
    ]
    bytes_only = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return _document(
        metadata,
        vocabulary,
        normalizer=None,
        pre_tokenizer={"type": "Sequence", "pretokenizers": [*cuts, bytes_only]},
        decoder={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        model=_bpe(vocabulary, vocabulary.stored_merges(metadata), ignore_merges=words.ignore_merges),
    )


def _sentence_piece(metadata: GgufMetadata, vocabulary: Vocabulary) -> dict[str, Any]:
    prefix = metadata.flag("tokenizer.ggml.add_space_prefix", True)
    escape = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    prepend = [{"type": "Prepend", "prepend": _SPACE}] if prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    unescape = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    return _document(
        metadata,
        vocabulary,
        normalizer={"type": "Sequence", "normalizers": [*prepend, escape]},
        pre_tokenizer=None,
        decoder={"type": "Sequence", "decoders": [unescape, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        model=_bpe(vocabulary, vocabulary.merges_by_score(metadata), byte_fallback=True),
    )


_TEMPLATES = {"gpt2": _byte_level, "llama": _sentence_piece}


def _bpe(
    vocabulary: Vocabulary,
    merges: list[tuple[str, str]],
    *,
    ignore_merges: bool = False,
    byte_fallback: bool = False,
) -> dict[str, Any]:
    unknown = vocabulary.special.get("unk") if byte_fallback else None
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None if unknown is None else vocabulary.tokens[unknown],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": byte_fallback,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "vocab": vocabulary.ids,
        "merges": merges,
    }


def _document(metadata: GgufMetadata, vocabulary: Vocabulary, **parts: Any) -> dict[str, Any]:
    begin = vocabulary.special.get("bos") if vocabulary.adds_bos(metadata, _adds_bos(metadata, vocabulary)) else None
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "post_processor": None if begin is None else _begin_with(vocabulary.tokens[begin], begin),
        **parts,
    }


def _begin_with(token: str, index: int) -> dict[str, Any]:
    def piece(kind: str, name: str) -> dict[str, Any]:
        return {kind: {"id": name, "type_id": 0}}

    return {
        "type": "TemplateProcessing",
        "single": [piece("SpecialToken", token), piece("Sequence", "A")],
        "pair": [piece("SpecialToken", token), piece("Sequence", "A"), piece("Sequence", "B")],
        "special_tokens": {token: {"id": token, "ids": [index], "tokens": [token]}},
    }

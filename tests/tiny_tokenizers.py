"""Small tokenizers of several kinds, trained on a few lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_models import CORPUS

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2_PATTERN = LLAMA3_PATTERN.replace("{1,3}", "")
SPACE = "\u2581"

TEXT = (
    CORPUS * 3
    + "one  two   three    four\n\n\nfive\t\tsix  1  22   333    4444\n"
    + "don't I'll they've HE'D 123 1234 12345 123456 1234567 98 99 100\n"
    + "你好，世界。你好，世界。日本語の 日本語の Été été café café\n"
)


def byte_level(directory: Path, steps: list[Any], *, ignore_merges: bool = False, **settings: Any) -> Path:
    """A byte-level BPE tokenizer behind ``steps`` of the tokenizers library."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return save(tokenizer, directory, bos_token="<|im_start|>", eos_token="<|im_end|>", **settings)


def sentencepiece_like(directory: Path, *, prefix: bool) -> Path:
    """BPE over whole texts with byte fallback, as the tokenizers of Llama 2 (with a space in front) and Gemma are."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    escape = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), escape]) if prefix else escape
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, max_token_length=8, show_progress=False)
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = document["added_tokens"][:3]  # the bytes are tokens of the model, not added ones
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.add_tokens([AddedToken("[extra]", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return save(tokenizer, directory, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def save(tokenizer: Any, directory: Path, **settings: Any) -> Path:
    directory.mkdir(parents=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return directory

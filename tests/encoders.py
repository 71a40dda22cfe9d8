"""Tiny random encoders with a tokenizer, built offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tiny_models import CORPUS, make_tokenizer

_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}


def make_encoder_dir(kind: str, directory: Path) -> Path:
    """Write ``bert``, ``roberta`` (classifiers), ``sentences`` (BERT without a head), ``rms`` (Qwen3 without a head,
    its stream far beyond float16's squares) or ``vit`` to a directory, with weights that matter to the outputs.
    """
    import torch
    import transformers

    directory.mkdir(parents=True, exist_ok=True)
    vocab = make_tokenizer(directory)
    torch.manual_seed(0)
    if kind == "vit":
        config = transformers.ViTConfig(image_size=32, patch_size=8, num_labels=5, **_SIZES)
        model: Any = transformers.ViTForImageClassification(config)
    elif kind == "roberta":
        config = transformers.RobertaConfig(vocab_size=vocab, max_position_embeddings=66, type_vocab_size=1, **_SIZES)
        model = transformers.RobertaForSequenceClassification(config)
    elif kind == "rms":
        config = transformers.Qwen3Config(
            vocab_size=vocab, max_position_embeddings=64, num_key_value_heads=2, head_dim=16, **_SIZES
        )
        model = transformers.Qwen3Model(config)
    else:
        config = transformers.BertConfig(vocab_size=vocab, max_position_embeddings=64, **_SIZES)
        headless = kind == "sentences"
        model = (transformers.BertModel if headless else transformers.BertForSequenceClassification)(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.normal_(0.0, 0.15)
            else:
                weight.add_(torch.randn_like(weight) * 0.05)
            if "layernorm" in name.lower() and name.endswith("weight"):
                weight[3] *= 12  # a loud channel, as trained models have
        if kind == "rms":
            model.embed_tokens.weight.mul_(3000)
            for layer in model.layers:
                layer.mlp.gate_proj.weight.mul_(0.1)
    model.save_pretrained(directory)
    return directory


def calibration_for(kind: str, place: Path) -> Path:
    """A file of inputs: lines, or an .npz of images."""
    if kind == "vit":
        path = place / "images.npz"
        np.savez(path, pixel_values=np.random.default_rng(0).standard_normal((20, 3, 32, 32)).astype(np.float32))
        return path
    path = place / "lines.txt"
    path.write_text(CORPUS * 7, encoding="utf-8")
    return path

"""A teacher whose answers are known: a Llama without layers to speak of, so that a next token rests on the last one.

Behind ``#`` it prefers ``+``, behind ``@`` it prefers ``=``, each by the same odds; a leaning towards ``=`` comes on
top, whatever the text.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tiny_models import make_model_dir

TASK = """
labels: {plus: ["+"], equals: ["="]}
template: "Say: {text}"
"""
WORDS = ("quick", "brown", "fox", "lazy", "dog", "jugs", "box", "five", "dozen", "over")


def make_planted_teacher(directory: Path, *, leaning: float = 3.0, odds: float = 2.0) -> Path:
    """Write the teacher; in nats, how much it leans, and by how much a text's mark raises its own label."""
    make_model_dir("llama3", directory, num_hidden_layers=1)
    vocabulary = json.loads((directory / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    file = directory / "model.safetensors"
    tensors = load_file(file)
    for name in tensors:
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensors[name].zero_()
    width = tensors["model.norm.weight"].shape[0]
    embedding = torch.full((len(tensors["model.embed_tokens.weight"]), width), 0.0)
    embedding[:, 2] = 1.0  # in every token, for the leaning
    for mark, axis in (("#", 0), ("@", 1)):
        embedding[vocabulary[mark], axis] = 1.0
    head = torch.zeros_like(embedding)
    # RMSNorm makes a token of two ones √(width / 2) of each, and one of a single one √width.
    scale = (width / 2) ** 0.5
    head[vocabulary["+"], 0] = head[vocabulary["="], 1] = odds / scale
    head[vocabulary["="], 2] = leaning / scale
    tensors |= {"model.embed_tokens.weight": embedding, "lm_head.weight": head, "model.norm.weight": torch.ones(width)}
    save_file({name: value.contiguous() for name, value in tensors.items()}, file, metadata={"format": "pt"})
    return directory


def marked_texts(count: int, seed: int) -> list[tuple[str, str]]:
    """Texts and their labels, half of each; all different."""
    random = np.random.default_rng(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        label = ("plus", "equals")[len(found) % 2]
        words = " ".join(random.choice(WORDS, 6))
        found.setdefault(f"{words} {'#' if label == 'plus' else '@'}", label)
    return list(found.items())

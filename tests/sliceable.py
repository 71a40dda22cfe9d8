"""Small random encoders of every class that can be sliced; some of their channels, heads and neurons empty.

What each side of a tensor counts is written down here once more, so that a wrong entry in the table under test shows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_models import make_tokenizer

AUTO = {
    "BertModel": "AutoModel",
    "BertForSequenceClassification": "AutoModelForSequenceClassification",
    "BertForTokenClassification": "AutoModelForTokenClassification",
    "RobertaModel": "AutoModel",
    "RobertaForSequenceClassification": "AutoModelForSequenceClassification",
    "RobertaForTokenClassification": "AutoModelForTokenClassification",
    "DistilBertModel": "AutoModel",
    "DistilBertForSequenceClassification": "AutoModelForSequenceClassification",
    "DistilBertForTokenClassification": "AutoModelForTokenClassification",
    "ViTModel": "AutoModel",
    "ViTForImageClassification": "AutoModelForImageClassification",
    "DeiTModel": "AutoModel",
    "DeiTForImageClassification": "AutoModelForImageClassification",
    "DeiTForImageClassificationWithTeacher": "DeiTForImageClassificationWithTeacher",
}
ARCHITECTURES = tuple(AUTO)
HIDDEN, LAYERS, HEADS, FFN, LABELS = 64, 3, 4, 48, 5
_SIDES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"\.self\.(query|key|value)\.|\.[qkv]_(lin|proj)\.", ("heads", "hidden")),
    (r"attention\.output\.dense\.|\.out_lin\.|\.o_proj\.", ("hidden", "heads")),
    (r"intermediate\.dense\.|\.lin1\.|\.fc1\.", ("ffn", "hidden")),
    (r"\.\d+\.output\.dense\.|\.lin2\.|\.fc2\.", ("hidden", "ffn")),
    (r"pooler\.dense\.|^classifier\.dense\.|^pre_classifier\.", ("pooled", "hidden")),
    (r"_token$|position_embeddings$", ("", "", "hidden")),
    (r"_embeddings\.weight$", ("", "hidden")),
    (r"patch_embeddings\.projection\.", ("hidden", "", "", "")),
    (r"[nN]orm", ("hidden",)),
)


def sides(name: str, architecture: str) -> tuple[str, ...]:
    """What each side of a tensor counts; "" for what stays whole."""
    for pattern, found in _SIDES:
        if re.search(pattern, name):
            return found[:1] if name.endswith("bias") else found
    assert "classifier" in name, name
    pooled = "ForSequenceClassification" in architecture
    return ("",) if name.endswith("bias") else ("", "pooled" if pooled else "hidden")


def sizes_of(architecture: str, hidden: int, layers: int, heads: int, ffn: int) -> dict[str, int]:
    """Sizes as ``config.json`` of the class has them."""
    if architecture.startswith("DistilBert"):
        return {"dim": hidden, "n_layers": layers, "n_heads": heads, "hidden_dim": ffn}
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return dict(zip(names, (hidden, layers, heads, ffn), strict=True))


def is_vision(architecture: str) -> bool:
    return architecture.startswith(("ViT", "DeiT"))


def make_model(architecture: str, *, seed: int = 0, **options: Any) -> Any:
    """A model whose every weight matters to the outputs."""
    import transformers

    kind = getattr(transformers, architecture)
    fields = sizes_of(architecture, HIDDEN, LAYERS, HEADS, FFN) | {"num_labels": LABELS}
    if is_vision(architecture):
        fields |= {"image_size": 16, "patch_size": 8}
    else:
        fields |= {"vocab_size": 320, "max_position_embeddings": 66, "pad_token_id": 2}
    torch.manual_seed(seed)
    model = kind(kind.config_class(**(fields | options))).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, 0.2)
            else:
                weight.add_(torch.randn_like(weight) * 0.2)
            if "norm" in name.lower() and name.endswith("weight"):
                weight[3] *= -4  # a loud channel, as trained models have, and a gain below zero
    return model


def write(model: Any, directory: Path) -> Path:
    """The model and, for text, a tokenizer."""
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    if not is_vision(type(model).__name__):
        make_tokenizer(directory)
    return directory


def inputs_for(architecture: str, *, seed: int = 0, count: int = 6) -> dict[str, torch.Tensor]:
    """Inputs that a model takes."""
    generator = torch.Generator().manual_seed(seed)
    if is_vision(architecture):
        return {"pixel_values": torch.randn(count, 3, 16, 16, generator=generator)}
    return {"input_ids": torch.randint(4, 320, (count, 20), generator=generator)}


class Kept:
    """What stays of a model of which all else is empty: by evenly spaced places, or drawn."""

    def __init__(self, hidden: int, heads: int, ffn: int, *, even: bool) -> None:
        self.counts = hidden, heads, ffn
        rng = np.random.default_rng(7)

        def some(count: int, of: int) -> list[int]:
            return [i * of // count for i in range(count)] if even else sorted(rng.permutation(of)[:count].tolist())

        whole, dims = HIDDEN // HEADS, hidden // heads
        self.hidden, self.pooled = some(hidden, HIDDEN), some(hidden, HIDDEN)
        self.ffn = [some(ffn, FFN) for _ in range(LAYERS)]
        places = [i * whole // dims for i in range(dims)]
        self.heads = [[head * whole + place for head in some(heads, HEADS) for place in places] for _ in range(LAYERS)]

    def places(self, side: str, name: str) -> list[int]:
        found = re.search(r"\.(\d+)\.", name)
        if side in ("hidden", "pooled"):
            return self.hidden if side == "hidden" else self.pooled
        assert found, name
        return (self.heads if side == "heads" else self.ffn)[int(found[1])]


def empty(model: Any, kept: Kept) -> None:
    """Set everything to zero but what is kept, and make the states that are kept pairs of opposites.

    Their mean is zero then in every token, with or without the empty ones beside them.
    """
    architecture = type(model).__name__
    with torch.no_grad():
        for name, weight in model.named_parameters():
            for axis, side in enumerate(sides(name, architecture)):
                if not side:
                    continue
                places = kept.places(side, name)
                lost = np.setdiff1d(np.arange(weight.shape[axis]), places)
                weight[(slice(None),) * axis + (lost,)] = 0
                if side == "hidden" and writes(name, axis):
                    _pair(weight, axis, places, 1.0 if "norm" in name.lower() and name.endswith("weight") else -1.0)


def writes(name: str, axis: int) -> bool:
    """Whether a side is what a tensor adds to the states, and not what it reads of them."""
    return axis == 0 or "embeddings" in name


def _pair(weight: torch.Tensor, axis: int, places: Sequence[int], sign: float) -> None:
    first = (slice(None),) * axis + (list(places[::2]),)
    second = (slice(None),) * axis + (list(places[1::2]),)
    weight[second] = sign * weight[first]


def answers(model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All that a model says."""
    with torch.inference_mode():
        return {name: value for name, value in model(**inputs).items() if isinstance(value, torch.Tensor)}

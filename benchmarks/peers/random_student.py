"""A student of random weights with another student's shape and tokenizer, at any depth, written a layer at a time.

For questions that trained weights have no part in: memory, time, sizes. Norms are neutral and matrices are drawn so
that the residual stream keeps its scale; every layer is a file of its own, so that making a deep student takes no more
memory than a shallow one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from edgepress.artifact.families import EMBEDDING, FAMILIES, LAYER
from edgepress.artifact.files import atomic_directory
from edgepress.artifact.weights import WeightSource
from edgepress.errors import InputError, require

PerLayer = dict[str, tuple[int, ...]]


def write_random_student(template: WeightSource, out: Path, *, depth: int, seed: int) -> int:
    """Write a float32 Hugging Face directory.

    Args:
        template: whose first layer, embedding, configuration and tokenizer are taken.
        out: the directory, which must not exist.
        depth: layers.
        seed: of the weights; a layer's values do not depend on the depth.

    Returns:
        Bytes of the weights.
    """
    config = template.config | {"num_hidden_layers": depth, "dtype": "float32"}
    config.pop("torch_dtype", None)
    if types := config.get("layer_types"):
        config["layer_types"] = [types[index % len(types)] for index in range(depth)]
    total = 0
    index: dict[str, str] = {}
    with atomic_directory(out) as working:
        for part, shapes in enumerate(_parts(template, depth)):
            file = f"model-{part:05d}.safetensors"
            save_file(_draw(template, shapes, seed), working / file, metadata={"format": "pt"})
            index |= dict.fromkeys(shapes, file)
            total += 4 * sum(prod(shape) for shape in shapes.values())
        written = {"metadata": {"total_size": total}, "weight_map": index}
        (working / "model.safetensors.index.json").write_text(json.dumps(written), encoding="utf-8")
        (working / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        _copy_tokenizer(template.tokenizer_dir, working)
    return total


def write_random_text(tokenizer_dir: Path, out: Path, *, tokens: int, seed: int) -> None:
    """Write text that holds at least ``tokens`` tokens, made of random entries of the vocabulary."""
    tokenizers = require("tokenizers", "compress")
    tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    ids = np.random.default_rng(seed).integers(0, tokenizer.get_vocab_size(), 4 * tokens).tolist()
    text = tokenizer.decode(ids, skip_special_tokens=True)
    available = len(tokenizer.encode(text, add_special_tokens=False).ids)
    if available < tokens:
        raise InputError(f"random text of 4 × {tokens} tokens reads back as {available}; the tokenizer does not fit")
    out.write_text(text, encoding="utf-8")


def _parts(template: WeightSource, depth: int) -> Iterator[PerLayer]:
    """Names and shapes of what goes into each file: all that is outside the layers, then layer by layer."""
    first = LAYER.format(i=0)
    stem = first.partition("0")[0]
    yield {name: template.shape(name) for name in template.names if not name.startswith(stem)}
    inside = {name.removeprefix(first): template.shape(name) for name in template.names if name.startswith(first)}
    for index in range(depth):
        yield {LAYER.format(i=index) + leaf: shape for leaf, shape in inside.items()}


def _draw(template: WeightSource, shapes: PerLayer, seed: int) -> dict[str, NDArray[np.float32]]:
    neutral = 1.0 - FAMILIES[template.spec.family].norm_offset
    drawn: dict[str, NDArray[np.float32]] = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            drawn[name] = np.full(shape, 0.0 if name.endswith("bias") else neutral, np.float32)
            continue
        rng = np.random.default_rng([seed, *name.encode()])
        scale = 0.02 if name == EMBEDDING else shape[1] ** -0.5
        drawn[name] = rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)
    return drawn


def _copy_tokenizer(source: Path, out: Path) -> None:
    for file in sorted(source.iterdir()):
        if file.suffix in (".json", ".jinja", ".txt", ".model") and not file.name.startswith(("config", "model")):
            shutil.copy(file, out / file.name)

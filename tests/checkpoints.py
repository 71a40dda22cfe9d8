"""Checkpoints of tiny models for the exporters' tests, made without any solver of edgepress."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ggml_oracle import FORMATS as GGML_FORMATS
from ggml_oracle import ggml_quantize
from numpy.typing import NDArray
from safetensors.numpy import load_file

from edgepress.artifact.checkpoint import Checkpoint, CheckpointWriter, Stored
from edgepress.artifact.formats import get_format
from edgepress.artifact.quantized import QuantizedTensor
from edgepress.export.gguf.blocks import unpack

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def write_checkpoint(model_dir: Path, out: Path, formats: Callable[[str], str]) -> Checkpoint:
    """Quantize a Hugging Face directory with ggml's own rounding and write it as a checkpoint.

    Args:
        model_dir: config.json, *.safetensors and a tokenizer.
        out: directory to create.
        formats: tensor name → format name; vectors should get f32.
    """
    out.mkdir(parents=True)
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    shards: dict[str, dict[str, Stored]] = defaultdict(dict)
    chosen: dict[str, str] = {}
    for file in sorted(model_dir.glob("*.safetensors")):
        for name, values in load_file(file).items():
            if name == "lm_head.weight" and config.get("tie_word_embeddings"):
                continue
            chosen[name] = formats(name)
            layer = name.split(".")[2] if name.startswith("model.layers.") else "rest"
            shards[layer][name] = store(values.astype(np.float32), chosen[name])
    writer = CheckpointWriter(out, len(shards))
    for tensors in shards.values():
        writer.write_shard(tensors, {name: chosen[name] for name in tensors})
    writer.finish(config, "Tiny Test")
    for name in _TOKENIZER_FILES:
        if (model_dir / name).is_file():
            shutil.copy(model_dir / name, out / name)
    return Checkpoint(out)


def store(values: NDArray[np.float32], format: str) -> Stored:
    """Values as a checkpoint keeps them in a format: on its grid."""
    if format == "f32":
        return values
    if format == "f16":
        return values.astype(np.float16).astype(np.float32)
    assert get_format(format).fits(values.shape[1])
    if format not in GGML_FORMATS:
        return plainly_rounded(values, format)
    return unpack(format, ggml_quantize(format, values), values.shape[1])


def plainly_rounded(values: NDArray[np.float32], format: str) -> QuantizedTensor:
    """A symmetric format that ggml does not have, rounded to nearest, the largest magnitude on the highest level."""
    spec, (rows, columns) = get_format(format), values.shape
    blocks = values.reshape(rows, -1, spec.scale_width(columns)).astype(np.float64)
    scales = (np.abs(blocks).max(axis=2) / spec.levels[-1]).astype(np.float16)
    scaled, levels = blocks / scales.astype(np.float64)[..., None], np.array(spec.levels)
    codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, scaled).astype(np.uint8).reshape(rows, columns)
    return QuantizedTensor(format=format, codes=codes, scales=scales)

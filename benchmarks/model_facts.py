"""What a model file tells without being loaded: its context limit, and what llama-bench prints about a model.

A model is measured only if the scenario fits its context, and that must be known before minutes are spent on it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import msgspec

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.gguf_header import read_gguf_header
from edgepress.artifact.tensorrt_layout import is_tensorrt, read_layout
from edgepress.errors import InputError
from edgepress.runtime.llamacpp_cache import BATCH
from edgepress.runtime.locate import Engine, ModelFile

# What the session leaves at llama.cpp's defaults, and the batch that it sets.
_LLAMA_CPP_COLUMNS: dict[str, Any] = {
    "n_batch": BATCH,
    "n_ubatch": BATCH,
    "poll": 50,
    "type_k": "f16",
    "type_v": "f16",
    "load_mode": "auto",
    "lazy_mode": "auto",
    "repack": True,
}


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of a file. ``weights_bytes`` is the tensors alone; ``parameters`` None where the file does not tell;
    ``columns`` are further llama-bench columns that the engine's session settles.
    """

    context: int
    parameters: int | None
    weights_bytes: int
    description: str
    columns: dict[str, Any] = {}


def model_facts(model: ModelFile) -> ModelFacts:
    """Read a model's facts.

    Raises:
        InputError: the file is damaged, or lacks its context limit.
    """
    return _READERS[model.engine](model)


def _gguf(model: ModelFile) -> ModelFacts:
    header = read_gguf_header(model.path)
    architecture = header.metadata.get("general.architecture", "unknown")
    values: Counter[str] = Counter()
    for tensor in header.tensors:
        values[tensor.type] += prod(tensor.shape)
    parameters = values.total()
    main_type = values.most_common(1)[0][0] if values else "no tensors"
    return ModelFacts(
        context=_context(header.metadata.get(f"{architecture}.context_length"), model.path),
        parameters=parameters,
        weights_bytes=sum(tensor.data_bytes for tensor in header.tensors),
        description=f"{architecture} {parameters / 1e6:.0f}M {main_type}",
        columns=_LLAMA_CPP_COLUMNS,
    )


def _onnx(model: ModelFile) -> ModelFacts:
    if is_tensorrt(model.path):
        context = read_layout(model.path).context
        return ModelFacts(
            context=context, parameters=None, weights_bytes=model.file_bytes, description="ONNX for TensorRT"
        )
    path = model.path / "genai_config.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))["model"]
        context, kind = fields.get("context_length"), fields.get("type", "unknown")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: cannot be read as onnxruntime-genai's configuration ({error})") from error
    return ModelFacts(
        context=_context(context, path), parameters=None, weights_bytes=model.file_bytes, description=f"{kind} ONNX"
    )


def _tensorrt(model: ModelFile) -> ModelFacts:
    return ModelFacts(
        context=read_layout(model.path).context,
        parameters=None,
        weights_bytes=model.file_bytes,
        description="TensorRT engine",
        columns={"backends": "CUDA", "n_gpu_layers": len(read_layout(model.path).layers)},
    )


def _checkpoint(model: ModelFile) -> ModelFacts:
    checkpoint = Checkpoint(model.path)
    parameters = sum(prod(checkpoint.shape(name)) for name in checkpoint.names)
    return ModelFacts(
        context=checkpoint.spec.context,
        parameters=parameters,
        weights_bytes=model.file_bytes,
        description=f"{checkpoint.spec.family} {parameters / 1e6:.0f}M F32",
    )


def _context(value: object, place: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{place}: no context length in it (found {value!r}); this is not a language model's file")
    return value


_READERS: dict[Engine, Callable[[ModelFile], ModelFacts]] = {
    "llama.cpp": _gguf,
    "onnxruntime": _onnx,
    "torch": _checkpoint,
    "tensorrt": _tensorrt,
}

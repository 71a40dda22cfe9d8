"""Tiny checkpoints in the formats of TensorRT, and their graphs in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from checkpoints import write_checkpoint
from numpy.typing import NDArray

from edgepress.artifact.activations import write_activations
from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import LINEARS, is_matrix, layer_name
from edgepress.artifact.tensorrt_layout import DEFAULTS, TensorrtOptions, read_layout
from edgepress.export.tensorrt.writer import export_tensorrt

Cache = list[NDArray[np.float16]]


def checkpoint(model: Path, out: Path, body: str = "f16", head: str = "f16", *, rounds: bool = False) -> Checkpoint:
    """A checkpoint with one format for the linears and one for embedding and head; with rounded inputs where asked."""

    def formats(name: str) -> str:
        if not is_matrix(name):
            return "f32"
        return body if name.endswith("_proj.weight") else head

    source = write_checkpoint(model, out / "checkpoint", formats)
    if not rounds:
        return source
    scale = float(np.float16(0.02 if body == "int8" else 0.01))
    linears = [layer_name(i, part) for i in range(source.spec.depth) for part in LINEARS.values()]
    write_activations(source.directory, dict.fromkeys(linears, scale), "int8" if body == "int8" else "fp8")
    return Checkpoint(source.directory)


def exported(source: Checkpoint, out: Path, options: TensorrtOptions = DEFAULTS) -> Path:
    """The checkpoint's graph."""
    directory = out / "tensorrt"
    directory.mkdir()
    export_tensorrt(source, directory, options)
    return directory


class Graph:
    """A graph in ONNX Runtime with any batch, unlike a Session."""

    def __init__(self, directory: Path) -> None:
        self.layout = read_layout(directory)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        self._session = onnxruntime.InferenceSession(
            str(directory / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def empty(self, batch: int) -> Cache:
        size = self.layout.head_dim
        return [np.zeros((batch, layer.kv_heads, 0, size), np.float16) for layer in self.layout.layers for _ in (0, 1)]

    def run(self, ids: Any, mask: Any, cache: Cache) -> tuple[NDArray[np.float32], Cache]:
        """Logits (batch, sequence, vocab) and the cache after them; positions are counted by the mask."""
        tokens, shown = np.asarray(ids, np.int64), np.asarray(mask, np.int64)
        positions = np.maximum(np.cumsum(shown, axis=1) - 1, 0)[:, -tokens.shape[1] :]
        past = [name for name in self.layout.inputs if name.startswith("past_key_values.")]
        feeds = {"input_ids": tokens, "position_ids": positions, "attention_mask": shown}
        logits, *after = self._session.run(list(self.layout.outputs), feeds | dict(zip(past, cache, strict=True)))
        return logits, after

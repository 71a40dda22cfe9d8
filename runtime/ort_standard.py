"""A graph exported for TensorRT in ONNX Runtime on the CPU, where no GPU is: for the parity gate and for quality.

The same file, other kernels: ONNX Runtime has few for float16 on a CPU, and casts to float32 and back around its
operators, or leaves the way back out. Integers are dequantized and multiplied in float32 (a product of its own with
4-bit weights is told not to round its inputs). Speed measured here says nothing about a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.files import tree_bytes
from edgepress.artifact.tensorrt_layout import read_layout
from edgepress.errors import EdgepressError, InputError, require
from edgepress.runtime.cores import physical_cores
from edgepress.runtime.ort_genai import one_line
from edgepress.runtime.session import ClosingSession, Logits, SessionMemory, resident_bytes

_FLOAT32_PRODUCTS = ("session.qdq_matmulnbits_accuracy_level", "1")
# The engine keeps the logits of all tokens of a call: prompts are cut so that these stay within this.
_LOGITS_BYTES = 1 << 27
_MAX_TOKENS_A_CALL = 512


class OrtStandardSession(ClosingSession):
    """A Session over a directory with ``tensorrt.json``, a graph and its weights."""

    engine = "onnxruntime"
    engine_version: str

    def __init__(self, directory: Path, *, context: int | None = None, threads: int | None = None) -> None:
        """Load the model.

        Args:
            directory: what :func:`edgepress.export.tensorrt.writer.export_tensorrt` writes.
            context: tokens at most; None takes the model's limit.
            threads: CPU threads; None takes the physical cores this process may use.

        Raises:
            InputError: the directory is damaged, or the context is beyond the model's limit.
        """
        runtime = require("onnxruntime", "onnx")
        self._layout = read_layout(directory)
        self.engine_version = f"onnxruntime {runtime.__version__}, CPU, of a graph for TensorRT"
        self.vocab_size = self._layout.vocab
        limit = self._layout.context
        if context is not None and not 0 < context <= limit:
            raise InputError(f"a context of {context} tokens was asked for; this model takes 1 to {limit}")
        self.context_limit = context or limit
        self._call_tokens = max(1, min(_MAX_TOKENS_A_CALL, _LOGITS_BYTES // (4 * self.vocab_size)))
        self._weights_bytes = sum(tree_bytes(file) for file in directory.glob("*.onnx*"))
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = (
            threads or physical_cores(),
            4,
        )  # it raises its errors, too
        options.add_session_config_entry(*_FLOAT32_PRODUCTS)
        try:
            self._session: Any = runtime.InferenceSession(
                str(directory / "model.onnx"), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the exceptions of onnxruntime have no public base but this
            raise InputError(f"{directory}: ONNX Runtime cannot open this model: {one_line(error)}") from error
        self._cache: list[NDArray[np.float16]] = []
        self.reset()

    @property
    def position(self) -> int:
        """Tokens in the cache."""
        return int(self._cache[0].shape[2])

    def prefill(self, tokens: Sequence[int], *, logits: Literal["all", "last"] = "all") -> Logits:
        """See :class:`~edgepress.runtime.session.Session`."""
        self.check_tokens(tokens, self.position)
        ids = np.asarray(tokens, dtype=np.int64)
        rows = np.empty((len(ids) if logits == "all" else 1, self.vocab_size), dtype=np.float32)
        for start in range(0, len(ids), self._call_tokens):
            call = ids[start : start + self._call_tokens]
            found = self._append(call)
            if logits == "all":
                rows[start : start + len(call)] = found
            else:
                rows[0] = found[-1]
        return rows

    def decode(self, token: int) -> Logits:
        """See :class:`~edgepress.runtime.session.Session`."""
        row: Logits = self.prefill([token], logits="last")[0]
        return row

    def reset(self) -> None:
        """Empty the cache."""
        size = self._layout.head_dim
        self._cache = [
            np.zeros((1, layer.kv_heads, 0, size), np.float16) for layer in self._layout.layers for _side in range(2)
        ]

    def memory(self) -> SessionMemory:
        """Bytes held now; weights are counted as they are in the files."""
        cache = sum(part.nbytes for part in self._cache)
        return SessionMemory(weights_bytes=self._weights_bytes, kv_cache_bytes=cache, rss_bytes=resident_bytes())

    def close(self) -> None:
        """Free the model."""
        self._session = None
        self._cache = []

    def _append(self, ids: NDArray[np.int64]) -> Logits:
        past, new = self.position, len(ids)
        feeds = {
            "input_ids": ids[None],
            "position_ids": np.arange(past, past + new, dtype=np.int64)[None],
            "attention_mask": np.ones((1, past + new), np.int64),
        }
        names = [name for name in self._layout.inputs if name.startswith("past_key_values.")]
        try:
            logits, *self._cache = self._session.run(
                list(self._layout.outputs), feeds | dict(zip(names, self._cache, strict=True))
            )
        except Exception as error:
            raise EdgepressError(f"ONNX Runtime failed on {new} tokens: {one_line(error)}") from error
        found: Logits = logits[0]
        return found

"""A graph of products in ONNX Runtime on the CPU, ready to run again and again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from edgepress.errors import require


class OrtProduct:
    """A model file whose inputs are float32 activations, all (1, tokens, columns). Use with ``with``.

    ``input`` is what every input is fed.
    """

    engine = "onnxruntime"
    kernels = "CPUExecutionProvider"

    def __init__(self, model: Path, *, threads: int) -> None:
        """Load it.

        Args:
            model: the .onnx file, its data beside it.
            threads: CPU threads.

        Raises:
            MissingExtraError: onnxruntime is not installed.
        """
        runtime = require("onnxruntime", "onnx")
        self.engine_version = f"onnxruntime {runtime.__version__}"
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self._session = runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        inputs = self._session.get_inputs()
        self.input: NDArray[np.float32] = np.random.default_rng(0).standard_normal(inputs[0].shape).astype(np.float32)
        self._feeds = {entry.name: self.input for entry in inputs}
        self._last = self._session.get_outputs()[-1].name

    def run(self) -> None:
        """Compute all products once. ONNX Runtime computes every node, whichever outputs are fetched."""
        self.output()

    def output(self) -> NDArray[np.float32]:
        """Compute all products once and return the last one's, float32, (1, tokens, rows)."""
        found: NDArray[np.float32] = self._session.run([self._last], self._feeds)[0]
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        del self._session

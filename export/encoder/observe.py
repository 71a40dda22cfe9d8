"""What flows into the linears, seen by ONNX Runtime over calibration inputs: rows of every linear's input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError, require
from edgepress.export.encoder.model import OnnxModel, linears

ROWS = 1024
Feeds = dict[str, NDArray[Any]]


def observe(model: OnnxModel, inputs: Sequence[Feeds], directory: Path) -> dict[str, NDArray[np.float32]]:
    """Rows of the inputs of all linears, by value name, float32 (at most ``ROWS``, columns).

    Args:
        model: a float32 graph.
        inputs: by name, one entry at a time; each gives equally many rows, spread over its tokens.
        directory: where a copy of the graph is put while it runs.

    Raises:
        InputError: no inputs, or such that give values that are not finite.
    """
    if not inputs:
        raise InputError("no calibration inputs; give a text with lines, or an .npz with the model's inputs")
    names = sorted({node.input[0] for node in linears(model)})
    session = open_graph(_with_outputs(model, names, directory))
    share = max(1, ROWS // len(inputs))
    found: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    for feeds in inputs[:ROWS]:
        for name, values in zip(names, session.run(names, feeds), strict=True):
            if not np.isfinite(values).all():
                raise InputError(f"the calibration inputs make {name} not finite; use others")
            rows = values.reshape(-1, values.shape[-1])
            found[name].append(rows[np.linspace(0, len(rows) - 1, min(share, len(rows))).round().astype(int)])
    return {name: np.concatenate(rows) for name, rows in found.items()}


def open_graph(path: Path) -> Any:
    """An ONNX Runtime session on the CPU."""
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _with_outputs(model: OnnxModel, names: Sequence[str], directory: Path) -> Path:
    onnx = require("onnx", "onnx")
    copied = onnx.ModelProto()
    copied.CopyFrom(model.proto)
    for name in names:
        copied.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    path = directory / "observed.onnx"
    onnx.save_model(copied, str(path), save_as_external_data=True, location="observed.onnx.data")
    return path

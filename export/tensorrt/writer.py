"""The files of a TensorRT export: predicted to the byte from shapes alone, then written tensor by tensor.

model.onnx          the graph
model.onnx.data     the weights, in the order of computation
tensorrt.json       names, shapes and what engines are made for
and the tokenizer's files
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import is_matrix, layer_name, linears_of
from edgepress.artifact.plan import ModelPlan
from edgepress.artifact.tensorrt_layout import (
    DEFAULTS,
    LAYOUT_FILE,
    TensorrtLayout,
    TensorrtOptions,
    decoder_layout,
    write_layout,
)
from edgepress.export.onnx.genai import MODEL_FILE, tokenizer_files
from edgepress.export.onnx.proto import DATA_FILE, serialize
from edgepress.export.onnx.writer import write_data
from edgepress.export.tensorrt.decoder import decoder_graph
from edgepress.export.tensorrt.linear import number_type
from edgepress.export.tensorrt.support import check_tensorrt_support


def tensorrt_layout(plan: ModelPlan, options: TensorrtOptions = DEFAULTS) -> TensorrtLayout:
    """What ``tensorrt.json`` will say."""
    types = {number_type(tensor.format) for tensor in plan.tensors if is_matrix(tensor.name)}
    return decoder_layout(plan.spec, tuple(sorted(types)), options)


def predict_tensorrt_bytes(plan: ModelPlan, options: TensorrtOptions = DEFAULTS) -> dict[str, int]:
    """Bytes of every file that :func:`export_tensorrt` will write, by file name.

    Raises:
        InputError: the model cannot be exported; see :func:`check_tensorrt_support`.
    """
    check_tensorrt_support(plan)
    graph = decoder_graph(plan)
    sizes = {
        MODEL_FILE: len(serialize(graph, plan.name)),
        DATA_FILE: graph.data_bytes,
        LAYOUT_FILE: len(write_layout(tensorrt_layout(plan, options))),
    }
    return sizes | {path.name: path.stat().st_size for path in tokenizer_files(plan.tokenizer_dir)}


def export_tensorrt(checkpoint: Checkpoint, directory: Path, options: TensorrtOptions = DEFAULTS) -> None:
    """Write a checkpoint as a graph for TensorRT into an existing, empty directory.

    Raises:
        InputError: the model cannot be exported; nothing was written.
    """
    plan = checkpoint.plan()
    check_tensorrt_support(plan)
    layout, graph = tensorrt_layout(plan, options), decoder_graph(plan)
    layout = msgspec.structs.replace(layout, sparse_weights=int(_two_of_four_are_zero(checkpoint)))
    (directory / MODEL_FILE).write_bytes(serialize(graph, plan.name))
    (directory / LAYOUT_FILE).write_bytes(write_layout(layout))
    for path in tokenizer_files(plan.tokenizer_dir):
        shutil.copyfile(path, directory / path.name)
    write_data(checkpoint, graph, directory / DATA_FILE, "TensorRT")


def _two_of_four_are_zero(checkpoint: Checkpoint) -> bool:
    """Whether every four neighbouring inputs of the layers' matrices have two zeros; the first dense matrix tells."""
    layers = enumerate(checkpoint.spec.layers)
    names = (layer_name(i, part) for i, layer in layers for part in linears_of(layer).values())
    return all(_has_pattern(checkpoint.read(name)) for name in names)


def _has_pattern(values: NDArray[np.float32]) -> bool:
    if values.shape[1] % 4:
        return False
    return bool(((values.reshape(-1, 4) == 0).sum(1) >= 2).all())

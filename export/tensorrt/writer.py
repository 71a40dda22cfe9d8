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

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import is_matrix
from edgepress.artifact.hf_config import SPARSITY
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
    layout = decoder_layout(plan.spec, tuple(sorted(types)), options)
    return msgspec.structs.replace(layout, sparse_weights=plan.config.get(SPARSITY) == "2:4")


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
    (directory / MODEL_FILE).write_bytes(serialize(graph, plan.name))
    (directory / LAYOUT_FILE).write_bytes(write_layout(layout))
    for path in tokenizer_files(plan.tokenizer_dir):
        shutil.copyfile(path, directory / path.name)
    write_data(checkpoint, graph, directory / DATA_FILE, "TensorRT")

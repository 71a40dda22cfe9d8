"""The files of an ONNX export: predicted to the byte from shapes alone, then written tensor by tensor.

    model.onnx          the graph, a few hundred kB
    model.onnx.data     the weights, in the order of computation
    genai_config.json   and the tokenizer's files

A prediction serializes the very graph that is written, so the two cannot differ. Memory is that of the largest tensor.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.plan import ModelPlan
from edgepress.export.onnx.decoder import decoder_graph
from edgepress.export.onnx.genai import CONFIG_FILE, MODEL_FILE, genai_config, tokenizer_files
from edgepress.export.onnx.graph import Graph
from edgepress.export.onnx.linear import INT8_ACTIVATIONS
from edgepress.export.onnx.pieces import initializer_bytes
from edgepress.export.onnx.proto import DATA_FILE, serialize
from edgepress.export.onnx.support import check_onnx_support
from edgepress.progress import progress


def predict_onnx_bytes(plan: ModelPlan, *, accuracy_level: int = INT8_ACTIVATIONS) -> dict[str, int]:
    """Bytes of every file that :func:`export_onnx` will write, by file name.

    Raises:
        InputError: the model cannot be exported; see :func:`check_onnx_support`.
    """
    check_onnx_support(plan)
    graph = decoder_graph(plan, accuracy_level=accuracy_level)
    sizes = {
        MODEL_FILE: len(serialize(graph, plan.name)),
        DATA_FILE: graph.data_bytes,
        CONFIG_FILE: len(genai_config(plan)),
    }
    return sizes | {path.name: path.stat().st_size for path in tokenizer_files(plan.tokenizer_dir)}


def export_onnx(checkpoint: Checkpoint, directory: Path, *, accuracy_level: int = INT8_ACTIVATIONS) -> None:
    """Write a checkpoint as ONNX into an existing, empty directory.

    Args:
        checkpoint: the compressed model.
        directory: where the files go.
        accuracy_level: of MatMulNBits. 4, the default, lets the engine round activations to int8 block by block, as
            llama.cpp does; 0 keeps them in float32, several times slower.

    Raises:
        InputError: the model cannot be exported; nothing was written.
    """
    plan = checkpoint.plan()
    check_onnx_support(plan)
    graph = decoder_graph(plan, accuracy_level=accuracy_level)
    (directory / MODEL_FILE).write_bytes(serialize(graph, plan.name))
    (directory / CONFIG_FILE).write_bytes(genai_config(plan))
    for path in tokenizer_files(plan.tokenizer_dir):
        shutil.copyfile(path, directory / path.name)
    write_data(checkpoint, graph, directory / DATA_FILE, "ONNX")


def write_data(checkpoint: Checkpoint, graph: Graph, path: Path, what: str) -> None:
    """Write the initializers' bytes at their offsets; ``what`` names the work in the progress bar."""
    with path.open("wb") as stream, progress(what, graph.data_bytes) as advance:
        for entry in graph.initializers:
            if not entry.pieces:
                continue
            gap = entry.offset - stream.tell()
            stream.write(bytes(gap))
            written = sum(stream.write(run) for run in initializer_bytes(checkpoint, entry))
            assert written == entry.length, f"{entry.name}: {written} bytes, planned {entry.length}"
            advance(gap + written)

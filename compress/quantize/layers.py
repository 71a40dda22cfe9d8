"""The quantize step: walk the model layer by layer, quantize each matrix, write a checkpoint shard per layer.

With ``scale_search`` each matrix is weighted by the mean square of its inputs on the calibration windows, taken from
the unquantized model. A tied embedding is weighted as the head, which is the use that the error of a logit comes from;
an untied one only looks rows up, and all features of a row count alike.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.checkpoint import CheckpointWriter, Stored
from edgepress.artifact.families import EMBEDDING, HEAD, LAYER
from edgepress.artifact.formats import get_format
from edgepress.artifact.quantized import QuantizedTensor
from edgepress.artifact.weights import WeightSource
from edgepress.compress.quantize.assign import Assignment
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.quantize.grid import to_fp16
from edgepress.compress.quantize.solve import quantize_matrix
from edgepress.errors import InputError
from edgepress.progress import progress

Floats = NDArray[np.float32]
ERRORS_FILE = "quantization.json"
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)


class TensorError(msgspec.Struct, frozen=True, kw_only=True):
    """What quantization did to one tensor.

    ``relative_error`` is ‖W - Ŵ‖² / ‖W‖² with every column weighted by its input's mean square, so that it estimates
    the relative squared error of the layer's output; unweighted where ``weighted`` is false.
    """

    name: str
    format: str
    relative_error: float
    weighted: bool


Batch = tuple[dict[str, Floats], dict[str, Floats]]


def quantize_model(
    source: WeightSource,
    step: QuantizeStep,
    assignment: Assignment,
    windows: NDArray[np.int32] | None,
    directory: Path,
    *,
    name: str,
) -> None:
    """Quantize ``source`` into a checkpoint in ``directory`` (which exists and is empty).

    Args:
        source: the model.
        step: the recipe's step.
        assignment: the format of every tensor.
        windows: calibration tokens, int32, (samples, length); None for solvers that need none.
        directory: where the checkpoint goes.
        name: the model's name, which exported files carry.
    """
    formats = {tensor.name: tensor.format for tensor in assignment.tensors}
    writer = CheckpointWriter(directory, shards=source.spec.depth + 1)
    errors: list[TensorError] = []
    with progress(f"quantize ({step.solver})", sum(tensor.values for tensor in assignment.tensors)) as advance:
        for tensors, importance in _batches(source, windows):
            stored: dict[str, Stored] = {}
            for tensor_name in list(tensors):
                weight = tensors.pop(tensor_name)
                stored[tensor_name], error = _quantize(tensor_name, weight, formats, step, importance.get(tensor_name))
                errors += [error] if error else []
                advance(weight.size)
            writer.write_shard(stored, formats)
    copy_tokenizer(source.tokenizer_dir, directory)
    (directory / ERRORS_FILE).write_text(json.dumps(msgspec.to_builtins(errors), indent=2) + "\n", encoding="utf-8")
    writer.finish(source.config | {"tie_word_embeddings": source.spec.tied}, name)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files and the generation settings."""
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _batches(source: WeightSource, windows: NDArray[np.int32] | None) -> Iterator[Batch]:
    """Tensors and importances in shards: one per layer, then the rest."""
    rest = [name for name in source.names if not name.startswith("model.layers.")]
    if windows is None:
        for index in range(source.spec.depth):
            prefix = LAYER.format(i=index)
            yield {name: source.read(name) for name in source.names if name.startswith(prefix)}, {}
        yield {name: source.read(name) for name in rest}, {}
        return
    from edgepress.compress.calibrate.walk import LayerWalk

    walk = LayerWalk(source, windows)
    for visit in walk.layers():
        yield visit.tensors, visit.mean_square
    yield {name: source.read(name) for name in rest}, {HEAD if HEAD in rest else EMBEDDING: walk.head_mean_square()}


def _quantize(
    name: str, weight: Floats, formats: dict[str, str], step: QuantizeStep, importance: Floats | None
) -> tuple[Stored, TensorError | None]:
    spec = get_format(formats[name])
    if not np.isfinite(weight).all():
        raise InputError(f"{name}: the weights contain NaN or infinity")
    if spec.name == "f32":
        return weight, None
    try:
        if spec.name == "f16":
            return to_fp16(weight, "value").astype(np.float32), None
        tensor = quantize_matrix(weight, spec.name, step.solver, importance)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return tensor, _error(name, weight, tensor, importance)


def _error(name: str, weight: Floats, tensor: QuantizedTensor, importance: Floats | None) -> TensorError:
    columns = np.ones(weight.shape[1]) if importance is None else importance.astype(np.float64)
    lost = kept = 0.0
    for start in range(0, len(weight), 4096):
        rows = slice(start, start + 4096)
        difference = weight[rows] - tensor.rows(rows).dequantize()
        lost += float(np.einsum("ij,ij->j", difference, difference, dtype=np.float64) @ columns)
        kept += float(np.einsum("ij,ij->j", weight[rows], weight[rows], dtype=np.float64) @ columns)
    return TensorError(
        name=name,
        format=tensor.format,
        relative_error=lost / kept if kept else 0.0,
        weighted=importance is not None,
    )

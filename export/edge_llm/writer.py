"""The files of a hand-over, one shard per layer, and the check that they hold the checkpoint's integers.

What Edge-LLM's loader settles, and is refused here before anything is written: linears are INT4 in groups of 128, with
rows that are multiples of 64, or float16; embedding and head are float16; layers are alike. Sources: TensorRT
Edge-LLM's documentation ("Supported Models": group size 128, INT4 GPTQ) and its checkpoint loader's descriptions of the
formats that it reads.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import EMBEDDING, FAMILIES, HEAD, layer_name, linears_of
from edgepress.artifact.plan import ModelPlan
from edgepress.errors import InputError, ParityError
from edgepress.export.edge_llm.gptq import pack_gptq, unpack_gptq
from edgepress.export.onnx.genai import tokenizer_files
from edgepress.progress import progress

FORMAT = "trt_int4_128"
GROUP = 128
_ROWS = 64
_PARTS = ("qweight", "qzeros", "scales", "g_idx")
_QUANTIZATION = {
    "quant_method": "gptq",
    "checkpoint_format": "gptq",
    "bits": 4,
    "group_size": GROUP,
    "sym": True,
    "desc_act": False,
    "lm_head": False,
}


def check_edge_llm_support(plan: ModelPlan) -> None:
    """Refuse what Edge-LLM's loader could not hold.

    Raises:
        InputError: names the tensor or the property, and what would fit.
    """
    formats = {tensor.name: tensor for tensor in plan.tensors}
    if not plan.spec.uniform or FAMILIES[plan.spec.family].sandwich:
        raise InputError("Edge-LLM hand-over: only llama, qwen2 and qwen3 models whose layers are all alike")
    for name in (EMBEDDING, HEAD):
        if name in formats and formats[name].format != "f16":
            raise InputError(f"Edge-LLM hand-over: {name} is {formats[name].format}; it must be f16 there")
    if not packed_names(plan):
        raise InputError(f"Edge-LLM hand-over: no linear is {FORMAT} (groups of {GROUP}); quantize with that format")
    for name in linear_names(plan):
        tensor = formats[name]
        if tensor.format not in (FORMAT, "f16") or tensor.input_format != "float":
            raise InputError(
                f"Edge-LLM hand-over: {name} is {tensor.format} with {tensor.input_format} inputs; wanted {FORMAT} "
                f"(groups of {GROUP}) or f16, with float inputs"
            )
        if tensor.format == FORMAT and tensor.shape[0] % _ROWS:
            raise InputError(f"Edge-LLM hand-over: {name} has {tensor.shape[0]} rows; wanted a multiple of {_ROWS}")


def linear_names(plan: ModelPlan) -> list[str]:
    """The weights of all layers' linears."""
    return [layer_name(i, part) for i, layer in enumerate(plan.spec.layers) for part in linears_of(layer).values()]


def packed_names(plan: ModelPlan) -> list[str]:
    """The weights of the linears that are INT4."""
    linears = set(linear_names(plan))
    return [tensor.name for tensor in plan.tensors if tensor.name in linears and tensor.format == FORMAT]


def export_edge_llm(checkpoint: Checkpoint, directory: Path) -> None:
    """Write a hand-over into an existing, empty directory.

    Raises:
        InputError: Edge-LLM could not hold the model; nothing was written.
        ParityError: what was written is not the checkpoint.
    """
    plan = checkpoint.plan()
    check_edge_llm_support(plan)
    shards: dict[str, list[str]] = defaultdict(list)
    for name in checkpoint.names:
        shards[name.split(".")[2] if name.startswith("model.layers.") else "rest"].append(name)
    packed, total = set(packed_names(plan)), 0
    weight_map: dict[str, str] = {}
    with progress("Edge-LLM", len(shards)) as advance:
        for number, names in enumerate(shards.values(), start=1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            tensors: dict[str, NDArray[Any]] = {}
            for name in names:
                tensors |= _tensors(checkpoint, name, packed=name in packed)
            save_file(tensors, directory / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(tensors, file)
            total += sum(values.nbytes for values in tensors.values())
            advance(1)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _dump(directory / "model.safetensors.index.json", index)
    _dump(directory / "config.json", dict(checkpoint.config) | {"dtype": "float16", **_quantization()})
    for path in tokenizer_files(checkpoint.tokenizer_dir):
        shutil.copyfile(path, directory / path.name)
    verify_edge_llm(directory, checkpoint)


def verify_edge_llm(directory: Path, checkpoint: Checkpoint) -> None:
    """Read a hand-over back: values equal to the checkpoint's to the bit, floats as float16 rounds them.

    Raises:
        ParityError: names the tensor that differs.
    """
    weight_map = json.loads((directory / "model.safetensors.index.json").read_text(encoding="utf-8"))["weight_map"]

    def read(key: str) -> NDArray[Any]:
        with safe_open(directory / weight_map[key], framework="numpy") as shard:
            found: NDArray[Any] = shard.get_tensor(key)
            return found

    packed = set(packed_names(checkpoint.plan()))
    for name in checkpoint.names:
        wanted = checkpoint.read(name)
        if name in packed:
            module = name.removesuffix(".weight")
            found = unpack_gptq({part: read(f"{module}.{part}") for part in _PARTS})
        else:
            found, wanted = read(name), wanted.astype(np.float16)
        if not np.array_equal(found, wanted):
            raise ParityError(f"{name}: the hand-over differs from the checkpoint")


def _tensors(checkpoint: Checkpoint, name: str, *, packed: bool) -> dict[str, NDArray[Any]]:
    if not packed:
        values = checkpoint.read(name).astype(np.float16)
        if not np.isfinite(values).all():
            raise InputError(f"Edge-LLM hand-over: {name} has values beyond float16")
        return {name: values}
    tensor = checkpoint.quantized(name)
    assert tensor is not None, name
    module = name.removesuffix(".weight")
    return {f"{module}.{part}": values for part, values in pack_gptq(tensor).items()}


def _quantization() -> dict[str, Any]:
    return {"quantization_config": _QUANTIZATION}


def _dump(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")

"""Does NVIDIA's own exporter take our hand-over, and does its graph hold our integers?

Runs ``tensorrt-edgellm-export`` (its part on the CPU; no engine is built) on what ``edgepress edge-llm`` wrote, then
looks for every linear of the checkpoint among the INT4 operators of its ONNX graph: weights in the layout of its
kernels, by its own packing of our codes, and scales, both equal to the bit. The exporter needs an environment of its
own:

    python -m venv V && V/bin/pip install 'tensorrt-edgellm[export]==0.11.0'
    python benchmarks/peers/edge_llm_export.py CHECKPOINT HANDOVER --edge-llm-python V/bin/python --work W
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.benchmarks.peers.script import exit_code
from edgepress.errors import EdgepressError, ParityError, require
from edgepress.export.edge_llm.writer import packed_names

_EXPORT = "from tensorrt_edgellm.scripts.export import main; main()"
_PACK = """
import sys, numpy as np
from tensorrt_edgellm.checkpoint.repacking import repack_to_cutedsl_fragment
with np.load(sys.argv[1]) as codes:
    np.savez(sys.argv[2], **{name: repack_to_cutedsl_fragment(codes[name].astype(np.int16)) for name in codes.files})
"""


def main() -> None:
    """Export, compare, print."""
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    onnx_dir = options.work / "onnx"
    _run(options.edge_llm_python, _EXPORT, options.handover, onnx_dir)
    checkpoint = Checkpoint(options.checkpoint)
    wanted = _wanted(checkpoint, options.edge_llm_python, options.work)
    operators = _operators(onnx_dir / "llm" / "model.onnx")
    for weight, scales in operators:
        match = next((name for name, pair in wanted.items() if _equal(pair, weight, scales)), None)
        if match is None:
            raise ParityError(f"an INT4 operator of the graph, {weight.shape}, holds none of the checkpoint's linears")
        del wanted[match]
    if wanted:
        raise ParityError(f"{min(wanted)} is not in the graph")
    print(f"{len(operators)} INT4 operators, each with a linear's integers and scales, equal to the bit")


def _wanted(checkpoint: Checkpoint, python: Path, work: Path) -> dict[str, tuple[Any, Any]]:
    tensors = {name: checkpoint.quantized(name) for name in packed_names(checkpoint.plan())}
    given, packed = work / "codes.npz", work / "packed.npz"
    codes: dict[str, Any] = {name: tensor.codes for name, tensor in tensors.items() if tensor is not None}
    np.savez(given, **codes)
    _run(python, _PACK, given, packed)
    with np.load(packed) as arrays:
        return {name: (arrays[name], tensor.scales.T) for name, tensor in tensors.items() if tensor is not None}


def _operators(path: Path) -> list[tuple[Any, Any]]:
    onnx, helper = require("onnx", "onnx"), require("onnx.numpy_helper", "onnx")
    model = onnx.load(str(path))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    return [
        (helper.to_array(constants[node.input[1]]), helper.to_array(constants[node.input[2]]))
        for node in model.graph.node
        if node.op_type.startswith("Int4GroupwiseGemm")
    ]


def _equal(pair: tuple[Any, Any], weight: Any, scales: Any) -> bool:
    return bool(
        weight.shape == pair[0].shape
        and np.array_equal(weight.view(np.int8), pair[0])
        and np.array_equal(scales.reshape(-1), pair[1].reshape(-1))
    )


def _run(python: Path, code: str, *arguments: Path) -> None:
    done = subprocess.run([python, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise EdgepressError(f"{python} failed with code {done.returncode}: {lines[-1][:300]}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("handover", type=Path)
    parser.add_argument("--edge-llm-python", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(exit_code(main))

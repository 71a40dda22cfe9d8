"""The command that hands a checkpoint over to TensorRT Edge-LLM."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgepress.cli.app import Json, app, print_json


@app.command(name="edge-llm")
def edge_llm(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="Output of compress or run.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output directory.")],
    json: Json = False,
) -> None:
    """A checkpoint for NVIDIA's TensorRT Edge-LLM: our INT4 integers in GPTQ's layout, into OUT/edge-llm."""
    from edgepress.artifact.files import atomic_directory, tree_bytes
    from edgepress.export.edge_llm.writer import check_edge_llm_support, export_edge_llm
    from edgepress.pipeline.export import checkpoint_of, exporter
    from edgepress.pipeline.stages import Output

    checkpoint = checkpoint_of(artifact)
    check_edge_llm_support(checkpoint.plan())
    final = out / "edge-llm"
    with Output(out).claim(exporter(checkpoint, out)), atomic_directory(final) as working:
        export_edge_llm(checkpoint, working)
    if json:
        print_json({"out": str(final), "bytes": tree_bytes(final)})
        return
    print(f"{final}  {tree_bytes(final)} bytes; on a PC with Edge-LLM: tensorrt-edgellm-export {final} ONNX_DIR")

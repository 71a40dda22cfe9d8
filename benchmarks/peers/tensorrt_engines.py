"""What a student takes as TensorRT engines: bytes of graphs and engines, build time and memory, and the parity.

    python -m edgepress.benchmarks.peers.tensorrt_engines STUDENT WORK [--targets sm86,sm89] [--formats f16,int8,int4]

Every format is compressed by rounding to nearest (what is measured does not depend on the solver) and exported with one
engine per compute capability, by edgepress's own commands. The divergence is that of the graph in ONNX Runtime on the
CPU from torch over the same integers, as the parity gate has it. Engines are built, not run.

``share`` is an engine's bytes over those of the first format's for the same GPU, the embedding, which is float16 in
all but ``int4_embedding``, taken off both.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.artifact.families import EMBEDDING
from edgepress.benchmarks.peers.measured import Run, run_measured
from edgepress.benchmarks.peers.record import environment, markdown_table
from edgepress.benchmarks.peers.script import exit_code

# The ffn_down of W8A8 has the loudest inputs and stays in half precision, as the shipped recipe keeps it finer.
STEPS: dict[str, dict[str, Any]] = {
    "f16": {"format": "f16"},
    "int8": {
        "format": "int8",
        "embedding": "f16",
        "formats": {"*.ffn_down": "f16"},
        "activations": "int8",
        "smooth": 0.8,
        "clip": "minmax",
    },
    "int8_weights": {"format": "int8", "embedding": "f16"},
    "fp8": {"format": "fp8", "embedding": "f16", "activations": "fp8", "smooth": 0.8, "clip": "minmax"},
    "fp8_weights": {"format": "fp8", "embedding": "f16"},
    "int4": {"format": "trt_int4_64", "embedding": "f16"},
    "int4_embedding": {"format": "trt_int4_64", "embedding": "trt_int4_64"},
}
_PARITY = re.compile(r"parity in \S+ KLD (\S+)")


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison; 0, or the code of the error that was printed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--targets", default="sm86,sm89,sm120")
    parser.add_argument("--formats", default="f16,int8,int4")
    options = parser.parse_args(arguments)
    return exit_code(lambda: _compare(options))


def _compare(options: argparse.Namespace) -> None:
    rows: list[dict[str, Any]] = []
    for name in options.formats.split(","):
        rows += _measure(name, options)
        (options.work / "tensorrt_engines.json").write_text(
            json.dumps({"environment": environment(None), "rows": rows}, indent=2) + "\n", encoding="utf-8"
        )
    firsts = {row["target"]: row["engine_bytes"] - row["embedding_bytes"] for row in reversed(rows) if _is(rows, row)}
    print(_table(rows, firsts))


def _is(rows: list[dict[str, Any]], row: dict[str, Any]) -> bool:
    return bool(row["format"] == rows[0]["format"])


def _measure(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    folder = options.work / name
    folder.mkdir(parents=True, exist_ok=True)
    recipe = {
        "calibration": {"self": True, "samples": 8, "length": 256, "seed": 0},
        "compress": [{"step": "quantize", "solver": "nearest"} | STEPS[name]],
        "export": ["tensorrt"],
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    _edgepress(
        "compress",
        folder / "compress.log",
        options.student,
        "--recipe",
        folder / "recipe.yaml",
        "--out",
        folder / "out",
    )
    checkpoint = Checkpoint(folder / "out" / "checkpoint")
    embedding = next(tensor for tensor in checkpoint.plan().tensors if tensor.name == EMBEDDING)
    rows = []
    for target in options.targets.split(","):
        exported = folder / target
        asked = (folder / "out", "--to", "tensorrt", "--target", target, "--out", exported)
        run, said = _edgepress("export", folder / f"{target}.log", *asked)
        graph = exported / "tensorrt"
        record = json.loads((graph / "engines" / target / "engine.json").read_text(encoding="utf-8"))
        found = _PARITY.search(said)
        rows.append(
            {
                "format": name,
                "target": target,
                "graph_bytes": sum(file.stat().st_size for file in graph.glob("model.onnx*")),
                "embedding_bytes": embedding.data_bytes,
                "engine_bytes": record["engine_bytes"],
                "build_s": record["build_seconds"],
                "peak_rss_bytes": run.peak_rss_bytes,
                "kld": float(found[1]) if found else None,
            }
        )
    return rows


def _edgepress(command: str, log: Path, *arguments: object) -> tuple[Run, str]:
    """One of edgepress's commands, and what it said; an error where it fails."""
    words = [sys.executable, "-c", "from edgepress.cli import main; main()", command, *map(str, arguments)]
    run = run_measured(words, log)
    return run, log.read_text(encoding="utf-8")


def _table(rows: list[dict[str, Any]], firsts: dict[str, int]) -> str:
    heads = ("format", "GPU", "graph MB", "engine MB", "share", "build s", "peak MB", "KLD")
    cells = [
        (
            row["format"],
            row["target"],
            f"{row['graph_bytes'] / 1e6:.1f}",
            f"{row['engine_bytes'] / 1e6:.1f}",
            f"{(row['engine_bytes'] - row['embedding_bytes']) / firsts[row['target']]:.3f}",
            f"{row['build_s']:.0f}",
            f"{row['peak_rss_bytes'] / 1e6:.0f}",
            "not said" if row["kld"] is None else f"{row['kld']:.1e}",
        )
        for row in rows
    ]
    return markdown_table(heads, cells)


if __name__ == "__main__":
    sys.exit(main())

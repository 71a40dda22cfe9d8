"""How far does INT8 move the similarity of sentences? An exported sentence encoder beside the same model in float32.

Both graphs run in ONNX Runtime on the CPU, the float32 one as transformers' exporter leaves it. Sentences are embedded
by the mean over tokens of the last hidden state, scaled to length 1; the score of a pair is their product. Printed and
kept: the mean, the greatest and the signed mean difference of scores over all pairs of the first N lines of a text that
took no part in calibration, and whether the nearest other sentence stays the same. With ``--targets``, TensorRT-RTX
builds engines as well.

    python benchmarks/peers/encoder_similarity.py DIR --calibration C.txt --evaluation E.txt --work W
        [--lines 100] [--seeds 3] [--targets sm86 sm89 sm120]

``--seeds`` calibrates on so many disjoint parts of the calibration text. The exit code is 3 when a mean difference is
above ``--limit``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.benchmarks.peers.record import environment, markdown_table
from edgepress.benchmarks.peers.script import exit_code
from edgepress.benchmarks.peers.texts import describe, read
from edgepress.errors import BudgetNotMetError, require
from edgepress.export.encoder.observe import open_graph
from edgepress.export.encoder.write import export_encoder
from edgepress.runtime.tensorrt_board import build_here

_LONGEST = 256


def main() -> None:
    """Export, compare, print."""
    options = _options()
    lines = [line for line in read(options.evaluation).splitlines() if len(line.split()) > 3][: options.lines]
    reference = options.work / "float32"
    if not (reference / "encoder.json").is_file():
        reference.mkdir(parents=True, exist_ok=True)
        export_encoder(options.model, reference, calibration=None, weights="float", dtype="float32")
    wanted = scores(reference, options.model, lines)
    found = []
    for seed in range(options.seeds):
        out = options.work / f"int8-{seed}"
        out.mkdir(parents=True, exist_ok=True)
        part = _part(options.calibration, seed, options.seeds, options.work)
        start = time.perf_counter()
        record = export_encoder(options.model, out, calibration=part, samples=options.samples)
        seconds = time.perf_counter() - start
        moved = difference(wanted, scores(out, options.model, lines))
        fidelity = {name: value.cosine_mean for name, value in record.fidelity.items()}
        found.append(moved | {"seed": seed, "seconds": round(seconds, 1), "cosine": fidelity, "bytes": _bytes(out)})
    engines = {target: _engine(options.work / "int8-0", target) for target in options.targets}
    whole = {
        "model": str(options.model),
        "calibration": describe(options.calibration),
        "evaluation": describe(options.evaluation),
        "sentences": len(lines),
        "float32_bytes": _bytes(reference),
        "int8": found,
        "engines": engines,
        "environment": environment(None),
    }
    (options.work / "similarity.json").write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    heads = ["part", "bytes", "mean |difference|", "greatest", "signed mean", "same nearest"]
    rows = [
        [str(row["seed"]), str(row["bytes"])]
        + [f"{row[name]:.4f}" for name in ("mean", "greatest", "signed_mean", "same_nearest")]
        for row in found
    ]
    print(markdown_table(heads, rows))
    for target, engine in engines.items():
        print(f"{target}: {engine['bytes']} bytes in {engine['seconds']} s")
    if max(row["mean"] for row in found) > options.limit:
        raise BudgetNotMetError(f"a mean difference is above {options.limit}")


def scores(directory: Path, model: Path, lines: list[str]) -> NDArray[np.float64]:
    """Similarities of all pairs of sentences, (sentences, sentences)."""
    tokenizer = require("tokenizers", "encoder").Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(_LONGEST)
    session = open_graph(directory / "model.onnx")
    names = {value.name for value in session.get_inputs()}
    vectors = []
    for line in lines:
        encoded = tokenizer.encode(line)
        columns = {"input_ids": encoded.ids, "attention_mask": encoded.attention_mask}
        columns["token_type_ids"] = encoded.type_ids
        feeds = {name: np.array([columns[name]], np.int64) for name in names}
        mean = session.run(["last_hidden_state"], feeds)[0][0].astype(np.float64).mean(axis=0)
        vectors.append(mean / np.linalg.norm(mean))
    stacked = np.array(vectors)
    product: NDArray[np.float64] = stacked @ stacked.T
    return product


def difference(wanted: NDArray[np.float64], found: NDArray[np.float64]) -> dict[str, Any]:
    """How scores moved, over pairs of different sentences."""
    pairs = np.triu_indices(len(wanted), 1)
    moved = (found - wanted)[pairs]
    others = np.where(np.eye(len(wanted), dtype=bool), -np.inf, 0.0)
    nearest = (wanted + others).argmax(axis=1) == (found + others).argmax(axis=1)
    return {
        "mean": float(np.abs(moved).mean()),
        "greatest": float(np.abs(moved).max()),
        "signed_mean": float(moved.mean()),
        "same_nearest": float(nearest.mean()),
    }


def _engine(directory: Path, target: str) -> dict[str, Any]:
    built = build_here(directory, library="tensorrt_rtx", target=target)
    return {"bytes": built.record.engine_bytes, "seconds": built.record.build_seconds}


def _part(text: Path, part: int, parts: int, work: Path) -> Path:
    lines = [line for line in read(text).splitlines() if line.strip()]
    path = work / f"calibration-{part}.txt"
    path.write_text("\n".join(lines[len(lines) * part // parts : len(lines) * (part + 1) // parts]), encoding="utf-8")
    return path


def _bytes(directory: Path) -> int:
    return sum((directory / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--lines", type=int, default=100)
    parser.add_argument("--samples", type=int, default=320)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--targets", nargs="*", default=[])
    parser.add_argument("--limit", type=float, default=0.01)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(exit_code(main))

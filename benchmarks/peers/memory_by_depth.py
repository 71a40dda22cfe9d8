"""Does peak memory grow with depth? Compresses random students of 10, 20 and 30 layers, each in a process of its own.

Everything but the depth is equal: layer shapes, embedding, tokenizer (those of STUDENT), recipe and calibration text
(random tokens, so nothing is generated). Weights are random, since memory does not depend on them; nor does it depend
on speed, so this can run on a busy machine. For every depth and recipe the table has

    peak RSS      the kernel's high-water mark of ``edgepress compress``, file-mapped pages included
    stated        what ``--dry-run`` says before the work
    of fp32       the peak over the bytes of the student's float32 weights
    per layer     below the table: the slope of a line through the peaks, and the bytes of a layer's float32 weights

    python benchmarks/peers/memory_by_depth.py [STUDENT] --work W [--depths 10 20 30] [--target-bpw 5.0]

The exit code is 3 when a peak is above what was stated, or the slope is above ``--limit`` of a layer's bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml

from edgepress.benchmarks.peers.measured import Run, Word, run_measured
from edgepress.benchmarks.peers.random_student import write_random_student, write_random_text
from edgepress.benchmarks.peers.record import environment, markdown_table
from edgepress.compress.student.open import open_student
from edgepress.errors import EdgepressError
from edgepress.progress import say

TOOL = Path(sys.executable).with_name("edgepress")


class Peak(msgspec.Struct, frozen=True, kw_only=True):
    """One compression: what was to be expected, and what it took. Bytes."""

    recipe: str
    depth: int
    fp32_bytes: int
    stated_bytes: int
    run: Run

    @property
    def peak_bytes(self) -> int:
        """The most that the process held."""
        return self.run.peak_rss_bytes


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """A line through the peaks of one recipe: bytes that a layer adds, and a layer's float32 weights."""

    recipe: str
    bytes_per_layer: float
    layer_fp32_bytes: float

    @property
    def share(self) -> float:
        """What a layer adds to the peak, over its own float32 bytes."""
        return self.bytes_per_layer / self.layer_fp32_bytes


def growth(peaks: list[Peak]) -> list[Growth]:
    """The slope of peak memory over depth, for every recipe that was run at two depths or more."""
    lines = []
    for recipe in dict.fromkeys(peak.recipe for peak in peaks):
        of = [peak for peak in peaks if peak.recipe == recipe]
        depths = [peak.depth for peak in of]
        if len(set(depths)) < 2:
            continue
        peak = np.polyfit(depths, [peak.peak_bytes for peak in of], 1)[0]
        weights = np.polyfit(depths, [peak.fp32_bytes for peak in of], 1)[0]
        lines.append(Growth(recipe=recipe, bytes_per_layer=float(peak), layer_fp32_bytes=float(weights)))
    return lines


def table(peaks: list[Peak]) -> str:
    """The peaks as a Markdown table."""
    heads = ["recipe", "layers", "fp32 MB", "peak RSS MB", "stated MB", "peak / stated", "of fp32"]
    rows = [
        [
            peak.recipe,
            str(peak.depth),
            f"{peak.fp32_bytes / 1e6:.0f}",
            f"{peak.peak_bytes / 1e6:.0f}",
            f"{peak.stated_bytes / 1e6:.0f}",
            f"{peak.peak_bytes / peak.stated_bytes:.2f}",
            f"{peak.peak_bytes / peak.fp32_bytes:.2f}",
        ]
        for peak in peaks
    ]
    return markdown_table(heads, rows)


def recipes(options: argparse.Namespace, text: Path) -> dict[str, dict[str, Any]]:
    """Name → recipe: the solver at one format, and with a budget where one is given."""
    calibration = {"self": False, "files": [str(text)], "samples": options.samples, "length": options.length}
    uniform: dict[str, Any] = {"solver": options.solver, "format": options.format, "embedding": options.embedding}
    steps = {f"{options.solver} {options.format}": uniform}
    if options.target_bpw:
        steps[f"{options.solver} {options.target_bpw:g} bpw"] = {
            "solver": options.solver,
            "target_bpw": options.target_bpw,
        }
    return {
        name: {"calibration": calibration, "compress": [{"step": "quantize", **step}], "export": ["gguf"]}
        for name, step in steps.items()
    }


def measure(student: Path, fp32_bytes: int, depth: int, name: str, recipe: dict[str, Any], work: Path) -> Peak:
    """Plan and run one compression in processes of their own."""
    place = work / f"{depth}-layers-{name.replace(' ', '-')}"
    place.mkdir(parents=True, exist_ok=True)
    file = place / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    variables = {"EDGEPRESS_CACHE": str(place / "cache")}
    command: list[Word] = [TOOL, "compress", student, "--recipe", file, "-o", place / "out"]
    plan = place / "plan.json"
    run_measured([*command, "--dry-run", "--json"], plan, variables, errors=place / "plan.log")
    run = run_measured(command, place / "compress.log", variables)
    stated = int(json.loads(plan.read_text(encoding="utf-8"))["peak_memory_bytes"])
    say(f"{depth} layers, {name}: {run.peak_rss_bytes / 1e6:.0f} MB, {stated / 1e6:.0f} MB stated")
    return Peak(recipe=name, depth=depth, fp32_bytes=fp32_bytes, stated_bytes=stated, run=run)


def measure_all(options: argparse.Namespace, work: Path) -> Iterator[Peak]:
    """Every recipe at every depth, the uniform ones first: a search takes longer."""
    template = open_student(options.student)
    text = work / "random.txt"
    write_random_text(template.tokenizer_dir, text, tokens=options.samples * options.length, seed=options.seed)
    fp32_bytes = {}
    for depth in options.depths:
        fp32_bytes[depth] = write_random_student(template, work / f"{depth}-layers", depth=depth, seed=options.seed)
    for name, recipe in recipes(options, text).items():
        for depth in options.depths:
            yield measure(work / f"{depth}-layers", fp32_bytes[depth], depth, name, recipe, work)


def document(options: argparse.Namespace, peaks: list[Peak]) -> dict[str, Any]:
    """Everything needed to check or repeat the measurement."""
    return {
        "options": {name: value for name, value in vars(options).items() if not isinstance(value, Path)},
        "environment": environment(None),
        "peaks": [msgspec.to_builtins(peak) | {"peak_rss_bytes": peak.peak_bytes} for peak in peaks],
        "growth": [msgspec.to_builtins(line) | {"share_of_a_layer": line.share} for line in growth(peaks)],
    }


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Peak memory of edgepress compress against depth.")
    parser.add_argument("student", nargs="?", default="smollm2-135m-instruct", help="whose shape and tokenizer to take")
    parser.add_argument("--work", type=Path, required=True, help="folder for students, logs and memory_by_depth.json")
    parser.add_argument("--depths", nargs="+", type=int, default=[10, 20, 30])
    parser.add_argument("--solver", default="gptaq")
    parser.add_argument("--format", default="q4_0")
    parser.add_argument("--embedding", default="q8_0")
    parser.add_argument("--target-bpw", type=float, help="also with this budget, for the GGUF file")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=0.1, help="largest growth per layer, of its float32 bytes")
    return parser.parse_args()


def main() -> int:
    """Measure, print the table; memory_by_depth.json is written after every measurement."""
    options = parse_arguments()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    peaks: list[Peak] = []
    try:
        for peak in measure_all(options, work):
            peaks.append(peak)
            record = json.dumps(document(options, peaks), indent=2) + "\n"
            (work / "memory_by_depth.json").write_text(record, encoding="utf-8")
    except EdgepressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    lines = growth(peaks)
    print(table(peaks))
    for line in lines:
        print(
            f"{line.recipe}: a layer adds {line.bytes_per_layer / 1e6:.2f} MB to the peak, "
            f"{100 * line.share:.0f} % of its {line.layer_fp32_bytes / 1e6:.1f} MB in float32"
        )
    too_much = any(peak.peak_bytes > peak.stated_bytes for peak in peaks)
    return 3 if too_much or any(line.share > options.limit for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())

"""What each preparation is worth: divergence of the prepared and quantized model from the student.

    python benchmarks/peers/preparations.py STUDENT --calibration FILE --evaluation FILE
        [--solver gptaq] [--format q4_0] [--embedding q8_0] [--samples 32] [--length 256] [--seeds 0] [--tokens 2048]
        [--prepare "" scale_up_down awq awq,scale_up_down …]

Simulated: the checkpoint's float32 values run in torch, inputs not rounded. Each line has the mean divergence in nats
per token, and its difference from the first line on the same tokens with that difference's own standard error.
"""

from __future__ import annotations

import argparse
import sys

import msgspec

from edgepress.benchmarks.peers.simulated import Divergences, divergences, judge, mean_and_difference, text_section
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.student.open import open_student
from edgepress.errors import EdgepressError
from edgepress.recipe import Recipe

TRIED = ("", "scale_up_down", "scale_v_o", "rotate_v_o", "awq", "fold_norms", "awq,scale_up_down")
EVALUATION_WINDOW = 512


def recipe_for(arguments: argparse.Namespace, prepare: str, seed: int) -> Recipe:
    """The recipe of one line."""
    step = {
        "solver": arguments.solver,
        "format": arguments.format,
        "embedding": arguments.embedding,
        "fallback": arguments.fallback,
        "prepare": [name for name in prepare.split(",") if name],
    }
    return Recipe(
        calibration=text_section(arguments.calibration, samples=arguments.samples, length=arguments.length, seed=seed),
        compress=(msgspec.convert(step | {"step": "quantize"}, QuantizeStep),),
        export=(),
    )


def compare(arguments: argparse.Namespace) -> None:
    """Print a line for each preparation and seed."""
    student = open_student(arguments.student)
    divergence = judge(student, arguments.evaluation, tokens=arguments.tokens, window=EVALUATION_WINDOW)
    for seed in arguments.seeds:
        first: Divergences | None = None
        for prepare in arguments.prepare:
            found = divergences(student, recipe_for(arguments, prepare, seed), divergence)
            first = found if first is None else first
            print(f"seed {seed}  {prepare or 'nothing':40} {mean_and_difference(found, first)}", flush=True)


def main() -> int:
    """Parse the command line and compare."""
    parser = argparse.ArgumentParser(description="Divergence of prepared and quantized models from the student.")
    parser.add_argument("student", help="anything edgepress opens")
    parser.add_argument("--calibration", required=True, help="a text file")
    parser.add_argument("--evaluation", required=True, help="a text file that shares nothing with it")
    parser.add_argument("--solver", default="gptaq")
    parser.add_argument("--format", default="q4_0")
    parser.add_argument("--embedding", default="q8_0")
    parser.add_argument("--fallback")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--prepare", nargs="+", default=list(TRIED), help="comma-separated names, or an empty string")
    arguments = parser.parse_args()
    try:
        compare(arguments)
    except (EdgepressError, msgspec.ValidationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

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
import tempfile
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.checkpoint import Checkpoint
from edgepress.compress.calibrate.config import Calibration
from edgepress.compress.calibrate.tokens import calibration_windows
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.search.divergence import Divergence
from edgepress.compress.student.open import open_student
from edgepress.compress.student.student import Student
from edgepress.errors import EdgepressError
from edgepress.pipeline.press import press
from edgepress.recipe import Recipe

Divergences = NDArray[np.float64]
TRIED = ("", "scale_up_down", "scale_v_o", "rotate_v_o", "awq", "fold_norms", "awq,scale_up_down")
EVALUATION_WINDOW = 512


def divergences(student: Student, recipe: Recipe, divergence: Divergence) -> Divergences:
    """Of the recipe's checkpoint, at each token."""
    with tempfile.TemporaryDirectory(prefix="edgepress-preparations-") as folder:
        press(student, recipe, Path(folder))
        checkpoint = Checkpoint(Path(folder))
        return divergence.per_token(lambda name, _original: checkpoint.read(name))


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
        calibration=Calibration(
            self_generated=False,
            files=(arguments.calibration,),
            samples=arguments.samples,
            length=arguments.length,
            seed=seed,
        ),
        compress=(msgspec.convert(step | {"step": "quantize"}, QuantizeStep),),
        export=(),
    )


def compare(arguments: argparse.Namespace) -> None:
    """Print a line for each preparation and seed."""
    student = open_student(arguments.student)
    length = min(EVALUATION_WINDOW, student.spec.context)
    text = Calibration(
        self_generated=False, files=(arguments.evaluation,), samples=arguments.tokens // length, length=length
    )
    divergence = Divergence(student, calibration_windows(student, text))
    for seed in arguments.seeds:
        first: Divergences | None = None
        for prepare in arguments.prepare:
            found = divergences(student, recipe_for(arguments, prepare, seed), divergence)
            first = found if first is None else first
            print(f"seed {seed}  {prepare or 'nothing':40} {_row(found, first)}", flush=True)


def _row(found: Divergences, first: Divergences) -> str:
    return f"{_mean_and_error(found, '.5f')}   {_mean_and_error(found - first, '+.5f')}"


def _mean_and_error(values: Divergences, form: str) -> str:
    return f"{values.mean():{form}} ± {values.std() / np.sqrt(len(values)):.5f}"


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

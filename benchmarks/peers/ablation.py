"""What each part of gptaq is worth: the solver with parts taken out, on several draws of calibration text.

    python benchmarks/peers/ablation.py STUDENT --calibration FILE --evaluation FILE [--format q4_0] [--embedding q8_0]
        [--samples 64] [--length 256] [--seeds 0 1 2] [--tokens 12288] [--variants search sweep descent refit …]

    search     activation-weighted scale search, no second-order solver (``solver: scale_search``)
    sweep      GPTQ with each block's scale searched inside, on the original weights
    descent    the same, then one descent over blocks and integers
    refit      the same, then scales in closed form and one more descent over integers
    0.25 … 1   the same on the asymmetric target, with this strength; the product has target.STRENGTH

Simulated: the checkpoint's float32 values run in torch, inputs not rounded. Each line has the mean divergence in nats
per token, and its difference from the seed's first line on the same tokens, each with its standard error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

from edgepress.benchmarks.peers.script import exit_code
from edgepress.benchmarks.peers.simulated import Divergences, divergences, judge, mean_and_difference, text_section
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.compress.quantize.gptaq.descent import Descent
from edgepress.compress.quantize.gptaq.solve import InputSolver
from edgepress.compress.quantize.gptaq.target import asymmetric_target
from edgepress.compress.student.open import open_student
from edgepress.errors import InputError
from edgepress.recipe import Recipe

TRIED = ("search", "sweep", "descent", "refit", "0.25", "0.5", "0.75", "1")


@contextmanager
def parts_of(variant: str) -> Iterator[None]:
    """While it lasts, gptaq has only the variant's parts.

    Raises:
        InputError: no such variant.
    """
    strength = {"search": 0.0, "sweep": 0.0, "descent": 0.0, "refit": 0.0}.get(variant)
    try:
        strength = float(variant) if strength is None else strength
    except ValueError as error:
        raise InputError(f"--variants: {variant}: wanted one of {', '.join(TRIED[:4])}, or a strength") from error
    with patch(f"{InputSolver.__module__}.asymmetric_target", partial(asymmetric_target, strength=strength)):
        if variant == "sweep":
            with patch.object(InputSolver, "quantize", InputSolver.trial):
                yield
        elif variant == "descent":
            with patch(f"{InputSolver.__module__}.refit"), _searching_descents_only():
                yield
        else:
            yield


@contextmanager
def _searching_descents_only() -> Iterator[None]:
    """Leave out the descent that follows the refit."""
    improve = Descent.improve

    def once(self: Descent, state: object, target: object, *, search: bool) -> None:
        if search:
            improve(self, state, target, search=search)  # type: ignore[arg-type]

    with patch.object(Descent, "improve", once):
        yield


def recipe_for(arguments: argparse.Namespace, variant: str, seed: int) -> Recipe:
    """The recipe of one line."""
    step = QuantizeStep(
        solver="scale_search" if variant == "search" else "gptaq",
        format=arguments.format,
        embedding=arguments.embedding,
        fallback=arguments.fallback,
    )
    text = text_section(arguments.calibration, samples=arguments.samples, length=arguments.length, seed=seed)
    return Recipe(calibration=text, compress=(step,), export=())


def compare(arguments: argparse.Namespace) -> None:
    """Print a line for each seed and variant."""
    student = open_student(arguments.student)
    divergence = judge(student, arguments.evaluation, tokens=arguments.tokens, window=arguments.length)
    for seed in arguments.seeds:
        first: Divergences | None = None
        for variant in arguments.variants:
            with parts_of(variant):
                found = divergences(student, recipe_for(arguments, variant, seed), divergence)
            first = found if first is None else first
            print(f"seed {seed}  {variant:10} {mean_and_difference(found, first)}", flush=True)


def main() -> int:
    """Parse the command line and compare."""
    parser = argparse.ArgumentParser(description="Divergence of models solved with parts of gptaq.")
    parser.add_argument("student", help="anything edgepress opens")
    parser.add_argument("--calibration", required=True, help="a text file")
    parser.add_argument("--evaluation", required=True, help="a text file that shares nothing with it")
    parser.add_argument("--format", default="q4_0")
    parser.add_argument("--embedding", default="q8_0")
    parser.add_argument("--fallback", default="f16")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=12288)
    parser.add_argument("--variants", nargs="+", default=list(TRIED))
    arguments = parser.parse_args()
    return exit_code(lambda: compare(arguments))


if __name__ == "__main__":
    sys.exit(main())

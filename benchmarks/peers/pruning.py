"""Pruning methods side by side: divergence before any healing, at the same share of neurons or channels removed.

    python benchmarks/peers/pruning.py STUDENT --calibration FILE --evaluation FILE [--keep 0.9 0.8 0.7]
        [--samples 128] [--length 512] [--seeds 0 1 2] [--tokens 40960] [--methods obs flap wanda_sp activation …]
        [--multiple-of 32]

    obs          the product: optimal brain surgeon with intercept, repaired, widths by layer, reconstructed
    obs_solved   without the reconstruction: nothing is trained, and so the least width of a layer is another one
    obs_uniform  as obs, all layers of one width
    flap         FLAP's score, the mean of what is gone in a bias
    wanda_sp, activation, magnitude    the scores alone: what stays keeps its weights
    …_uniform    any of them with all layers of one width
    hidden       the share is of the residual stream's channels, and what stays is solved; hidden_slices: not solved

Each line has the mean divergence in nats per token from the unpruned student, float32 in torch, and its difference from
the seed's first line at that share on the same tokens, each with its standard error.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.artifact.families import EMBEDDING, HEAD
from edgepress.artifact.weights import WeightSource
from edgepress.benchmarks.peers.script import exit_code
from edgepress.benchmarks.peers.simulated import mean_and_difference, text_section
from edgepress.compress.calibrate.tokens import calibration_windows
from edgepress.compress.prune.config import PruneFfn, PruneHidden
from edgepress.compress.search.divergence import final_states
from edgepress.compress.student.open import open_student
from edgepress.compress.student.student import Student
from edgepress.errors import InputError
from edgepress.pipeline.prune import prune
from edgepress.pipeline.stages import Output
from edgepress.recipe import Recipe

_TOKENS_AT_ONCE = 128
_REPAIRED = ("obs", "flap")
METHODS = ("obs", "flap", "wanda_sp", "activation", "magnitude")
_HIDDEN = {"hidden": True, "hidden_slices": False}  # by whether what stays is solved


def step_for(method: str, keep: float, multiple_of: int) -> PruneFfn | PruneHidden:
    """The step of a line.

    Raises:
        InputError: no such method.
    """
    if method in _HIDDEN:
        return PruneHidden(keep=keep, repair=_HIDDEN[method], multiple_of=multiple_of)
    name = "obs" if method == "obs_solved" else method.removesuffix("_uniform")
    if name not in METHODS:
        known = f"one of {', '.join(METHODS)}, one of them with _uniform behind it, obs_solved, {' or '.join(_HIDDEN)}"
        raise InputError(f"--methods: {method}: wanted {known}")
    widths = "uniform" if method.endswith("_uniform") else "per_layer"
    fields = {"keep": keep, "method": name, "repair": name in _REPAIRED, "widths": widths, "multiple_of": multiple_of}
    fields["reconstruct"] = method != "obs_solved"
    return msgspec.convert({"step": "prune_ffn"} | fields, PruneFfn)


def divergences(*models: tuple[torch.Tensor, torch.Tensor]) -> NDArray[np.float64]:
    """KL divergence at each token between two models, from the final states and the head of each."""
    found, pair = [], [(states.flatten(0, 1), head) for states, head in models]
    for start in range(0, len(pair[0][0]), _TOKENS_AT_ONCE):
        part = slice(start, start + _TOKENS_AT_ONCE)
        p, q = (torch.log_softmax(states[part] @ head.T, -1) for states, head in pair)
        found.append((p.exp() * (p - q)).sum(-1, dtype=torch.float64))
    values: NDArray[np.float64] = torch.cat(found).numpy()
    return values


def compare(arguments: argparse.Namespace) -> None:
    """Print a line for each seed, share and method."""
    student = open_student(arguments.student)
    section = text_section(
        arguments.evaluation, samples=arguments.tokens // arguments.length, length=arguments.length, seed=0
    )
    windows = calibration_windows(student, section)
    reference = final_states(student, windows), head_of(student)
    for seed in arguments.seeds:
        text = text_section(arguments.calibration, samples=arguments.samples, length=arguments.length, seed=seed)
        for keep in arguments.keep:
            first: NDArray[np.float64] | None = None
            for method in arguments.methods:
                started = time.monotonic()
                step = step_for(method, keep, arguments.multiple_of)
                recipe = Recipe(calibration=text, compress=(step,), export=("gguf", "onnx"))
                with tempfile.TemporaryDirectory(prefix="edgepress-pruning-") as folder:
                    found = _pruned_divergence(student, recipe, Path(folder), windows, reference)
                first = found if first is None else first
                taken = time.monotonic() - started
                print(
                    f"seed {seed}  keep {keep:g}  {method:20} {mean_and_difference(found, first)}  {taken:.0f} s",
                    flush=True,
                )


def _pruned_divergence(
    student: Student,
    recipe: Recipe,
    folder: Path,
    windows: NDArray[np.int32],
    reference: tuple[torch.Tensor, torch.Tensor],
) -> NDArray[np.float64]:
    output = Output(folder / "out")
    with output.claim("run"):
        pruned = prune(student, recipe, output)
        return divergences(reference, (final_states(pruned, windows), head_of(pruned)))


def head_of(source: WeightSource) -> torch.Tensor:
    return torch.from_numpy(source.read(HEAD if HEAD in source.names else EMBEDDING))


def main() -> int:
    """Parse the command line and compare."""
    parser = argparse.ArgumentParser(description="Divergence of pruned models before healing, by method.")
    parser.add_argument("student", help="anything edgepress opens")
    parser.add_argument("--calibration", required=True, help="a text file")
    parser.add_argument("--evaluation", required=True, help="a text file that shares nothing with it")
    parser.add_argument("--keep", type=float, nargs="+", default=[0.9, 0.8, 0.7])
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=40960)
    parser.add_argument("--multiple-of", type=int, default=32)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    arguments = parser.parse_args()
    return exit_code(lambda: compare(arguments))


if __name__ == "__main__":
    sys.exit(main())

"""Moves a model off its quantization grid without changing its function.

Rounding weights that already lie on a grid back to that grid loses nothing, so it measures nothing. Published students
are often available only as quantized GGUF files; the built-in one has linears on the Q4_1 grid. Each transform below
changes the numbers that get rounded and leaves the logits as they were (up to float32). All are mild: they stay within
what training could have produced, where folding whole norm gains into the linears, say, would make rounding harder than
it is in nature.

For a layer with input gains g, values V, output O and a gated feed-forward down(act(gate x) · up x):

    behind a norm    W_ij ← W_ij f_j,   g_j ← g_j / f_j                      f = 2^U(-1/4, 1/4), per input channel
    values           V_h  ← R_h V_h,    O_q ← O_q R_hᵀ for queries q of h    R_h orthogonal, one per key-value head
    rotary pairs     (k_j, k_j+d/2) and the pairs of its queries by one angle: commutes with the rotary rotation
    feed-forward     up_i ← f_i up_i,   down_i ← down_i / f_i                f as above, per inner channel

Two things stay where they are. Rotary pairs of models that normalise each query and key head: that norm's gains do not
commute with the rotation. And the embedding, with the final norm behind it: where the head is tied to it, both E and
E·diag(g) have to survive, which leaves only signed permutations of the residual channels (a general rotation of the
stream would need equal gains in every norm; folding the final gain would need a head of its own). ``--permute`` applies
such a permutation to the whole residual stream and, inside each layer, to the inner channels of the feed-forward. It
changes which 32 values share a scale, so it takes an embedding off an 8-bit grid too, and it is as natural as the
original order: random initialisation does not distinguish the channels. Without it, an embedding that came from a Q8_0
file is rounded to Q8_0 for free, by every tool alike.

    python benchmarks/peers/off_grid.py STUDENT OUT [--seed 0] [--permute]

STUDENT is whatever edgepress opens; OUT becomes a Hugging Face directory with float32 safetensors. The algebra is done
in float64, and the logits of a random batch are compared before the directory is called finished.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from edgepress.artifact.families import EMBEDDING, FINAL_NORM, HEAD
from edgepress.artifact.files import atomic_directory
from edgepress.artifact.weights import WeightSource
from edgepress.benchmarks.peers.same_function import move_layer
from edgepress.benchmarks.peers.script import exit_code
from edgepress.compress.student.open import open_student
from edgepress.errors import ParityError
from edgepress.progress import progress, say

Array = NDArray[np.float64]

MAX_LOGIT_DIFFERENCE = 1e-3
MAX_MEAN_KLD = 1e-6


class MovedSource:
    """The transformed model in memory, float32; a WeightSource. Layers draw from generators of their own."""

    def __init__(self, source: WeightSource, seed: int, *, permute: bool) -> None:
        self.spec = source.spec
        self.config = source.config
        self.tokenizer_dir = source.tokenizer_dir
        self.tensors: dict[str, NDArray[np.float32]] = {}
        rng = np.random.default_rng([seed, 0])
        residual = rng.permutation(source.spec.hidden) if permute else np.arange(source.spec.hidden)
        for name in (EMBEDDING, FINAL_NORM, HEAD):
            if name in source.names:
                self._keep(name, source.read(name)[..., residual])
        with progress("moving layers off the grid", source.spec.depth) as advance:
            for index in range(source.spec.depth):
                for name, tensor in move_layer(source, index, seed, residual if permute else None).items():
                    self._keep(name, tensor)
                advance(1)

    @property
    def names(self) -> tuple[str, ...]:
        """Hugging Face names of all tensors."""
        return tuple(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self.tensors[name].shape

    def read(self, name: str) -> NDArray[np.float32]:
        """A tensor's values."""
        return self.tensors[name]

    def digest(self) -> str:
        """sha256 over names and values, in the order of the names."""
        total = hashlib.sha256()
        for name in sorted(self.tensors):
            total.update(name.encode() + self.tensors[name].tobytes())
        return total.hexdigest()

    def _keep(self, name: str, tensor: NDArray[np.floating[Any]]) -> None:
        self.tensors[name] = np.ascontiguousarray(tensor, dtype=np.float32)


def compare_logits(before: WeightSource, after: WeightSource, seed: int) -> tuple[float, float]:
    """Largest difference of logits, and mean KL divergence in nats, over 2 × 128 random tokens.

    Computed by transformers in float64, so that what is seen is the model's change and not the noise of two sums.
    """
    length = min(128, before.spec.context)
    batch = np.random.default_rng(seed).integers(0, before.spec.vocab, (2, length))
    logits = [_logits(source, batch) for source in (before, after)]
    reference, other = (_log_softmax(values) for values in logits)
    divergence = (np.exp(reference) * (reference - other)).sum(axis=-1).mean()
    return float(np.abs(logits[0] - logits[1]).max()), float(divergence)


def _logits(source: WeightSource, batch: NDArray[np.int64]) -> Array:
    import torch

    from edgepress.runtime.torch_reference import load_model

    with torch.inference_mode():
        output = load_model(source).double()(torch.from_numpy(batch), use_cache=False).logits
    return np.asarray(output.numpy().reshape(-1, output.shape[-1]))


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def write_directory(model: MovedSource, out: Path) -> None:
    """Write a Hugging Face directory: safetensors, configuration, and the tokenizer's files as they are."""
    with atomic_directory(out) as working:
        save_file(model.tensors, working / "model.safetensors", metadata={"format": "pt"})
        config = {name: value for name, value in model.config.items() if name != "torch_dtype"} | {"dtype": "float32"}
        (working / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for file in sorted(model.tokenizer_dir.iterdir()):
            if file.suffix in (".json", ".jinja", ".txt", ".model") and not file.name.startswith(("config", "model")):
                shutil.copy(file, working / file.name)


def move_off_grid(student: str, out: Path, seed: int, *, permute: bool) -> None:
    """Open a student, transform it, check that it is the same function, and write it.

    Raises:
        ParityError: the logits moved by more than float32 explains.
    """
    source = open_student(student)
    model = MovedSource(source, seed, permute=permute)
    difference, divergence = compare_logits(source, model, seed)
    say(f"logits differ by at most {difference:.2e}, mean KL divergence {divergence:.2e}")
    if difference > MAX_LOGIT_DIFFERENCE or divergence > MAX_MEAN_KLD:
        raise ParityError(
            f"the transformed model is another function: logits differ by {difference:.2e} (at most "
            f"{MAX_LOGIT_DIFFERENCE:g} allowed), mean KL divergence {divergence:.2e} (at most {MAX_MEAN_KLD:g})"
        )
    write_directory(model, out)
    say(f"wrote {out}, seed {seed}, sha256 of the tensors {model.digest()[:16]}")


def main() -> int:
    """Parse the command line and transform."""
    parser = argparse.ArgumentParser(description="Move a model off its quantization grid; its function stays.")
    parser.add_argument("student", help="anything edgepress opens")
    parser.add_argument("out", type=Path, help="the Hugging Face directory to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--permute", action="store_true", help="also permute the residual stream and the inner channels"
    )
    options = parser.parse_args()
    return exit_code(lambda: move_off_grid(options.student, options.out, options.seed, permute=options.permute))


if __name__ == "__main__":
    sys.exit(main())

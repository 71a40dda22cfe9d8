"""Runs llama.cpp's tools as measured child processes, and reads llama-perplexity's statistics.

llama-perplexity's protocol: the text is tokenized once and cut into chunks of ``context`` tokens without overlap; each
chunk is evaluated from an empty cache and its second half is scored. ``--kl-divergence-base`` saves the reference's
log-probabilities as 16-bit integers over each position's range; ``--kl-divergence`` compares another model with them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from edgepress.benchmarks.peers.measured import Run, Word, run_measured
from edgepress.errors import EdgepressError, InputError
from edgepress.progress import say

_NUMBER = r"\s*(-?[0-9.]+)"
# llama-perplexity loses the end of its output now and then when a run is short.
_ATTEMPTS = 6

_SPREAD = _NUMBER + r" ±" + _NUMBER
_STATISTICS = {
    "kld_mean": r"Mean    KLD:" + _SPREAD,
    "kld_p99": r"99\.0%   KLD:" + _NUMBER,
    "kld_max": r"Maximum KLD:" + _NUMBER,
    "top1_agreement_percent": r"Same top p:" + _SPREAD,
    "ppl": r"Mean PPL\(Q\)\s+:" + _SPREAD,
    "ppl_reference": r"Mean PPL\(base\)\s+:" + _SPREAD,
}
_WITH_SPREAD = {"kld_mean": "kld_se", "top1_agreement_percent": "top1_se_percent", "ppl": "ppl_se"}


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """What llama-perplexity says of a model against the reference; divergences in nats."""

    kld_mean: float
    kld_se: float
    kld_p99: float
    kld_max: float
    top1_agreement_percent: float
    top1_se_percent: float
    ppl: float
    ppl_se: float
    ppl_reference: float


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """A folder made by build_llama_tools.py, and how to run what is in it."""

    folder: Path
    threads: int

    def binary(self, name: str) -> Path:
        """The path of a tool.

        Raises:
            InputError: it is not there.
        """
        path = self.folder / "bin" / name
        if not path.is_file():
            raise InputError(f"{path}: no such tool; run: python benchmarks/peers/build_llama_tools.py {self.folder}")
        return path

    def about(self) -> dict[str, Any]:
        """What the tools were built from."""
        path = self.folder / "tools.json"
        if not path.is_file():
            raise InputError(f"{path}: no such file; run: python benchmarks/peers/build_llama_tools.py {self.folder}")
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return about

    def convert(self, python: str, student: Path, out: Path) -> Run:
        """A float32 GGUF of a Hugging Face directory, by llama.cpp's own converter."""
        tree = Path(self.about()["tree"])
        command: list[Word] = [python, tree / "convert_hf_to_gguf.py", student, "--outtype", "f32", "--outfile", out]
        return run_measured(command, out.with_suffix(".log"))

    def imatrix(self, model: Path, text: Path, out: Path, *, chunks: int, context: int) -> Run:
        """The mean squares of every linear's inputs on a text."""
        command: list[Word] = [self.binary("llama-imatrix"), "-m", model, "-f", text, "-o", out, "--no-ppl"]
        return run_measured([*command, *self._size(chunks, context)], out.with_suffix(".log"))

    def quantize(self, model: Path, out: Path, kind: str, imatrix: Path | None, embedding: str | None) -> Run:
        """A quantized GGUF; ``kind`` is llama-quantize's name of the format."""
        options: list[Word] = ["--imatrix", imatrix] if imatrix else []
        options += ["--token-embedding-type", embedding] if embedding else []
        command: list[Word] = [self.binary("llama-quantize"), *options, model, out, kind, str(self.threads)]
        return run_measured(command, out.with_suffix(".log"))

    def save_reference(self, model: Path, text: Path, out: Path, *, chunks: int, context: int) -> Run:
        """The log-probabilities that other models are compared with."""
        command: list[Word] = [self.binary("llama-perplexity"), "-m", model, "-f", text, "--kl-divergence-base", out]
        return run_measured([*command, *self._size(chunks, context)], out.with_suffix(".log"))

    def divergence(self, model: Path, reference: Path, log: Path) -> tuple[Divergence, Run]:
        """Compare a model with the saved reference, on the tokens that are saved with it."""
        command: list[Word] = [
            self.binary("llama-perplexity"),
            "-m",
            model,
            "--kl-divergence",
            "--kl-divergence-base",
            reference,
        ]
        command += ["-t", str(self.threads)]
        for _ in range(_ATTEMPTS):
            run = run_measured(command, log)
            if _is_whole(log):
                break
            say(f"{log}: llama-perplexity ended without its last lines; once more")
        return parse_divergence(_read(log)), run

    def _size(self, chunks: int, context: int) -> list[str]:
        return ["-c", str(context), "--chunks", str(chunks), "-t", str(self.threads)]


def _is_whole(log: Path) -> bool:
    """Whether the statistics arrived: the tool's logging thread may lose them when the process ends at once."""
    return "Same top p:" in _read(log)


def _read(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")


def parse_divergence(output: str) -> Divergence:
    """Read the statistics that llama-perplexity prints at the end.

    Raises:
        EdgepressError: one of them is missing.
    """
    found: dict[str, float] = {}
    for field, pattern in _STATISTICS.items():
        match = re.search(pattern, output)
        if match is None:
            raise EdgepressError(f"llama-perplexity's output has no {field}; wanted a line like {pattern!r}")
        found[field] = float(match[1])
        if field in _WITH_SPREAD:
            found[_WITH_SPREAD[field]] = float(match[2])
    return msgspec.convert(found, Divergence)


def system_info(output: str) -> str:
    """The instruction sets that a tool says it was compiled for, from its output; empty when it does not say."""
    match = re.search(r"system_info:.*?\| (\w+ : .*)", output)
    return match[1].strip() if match else ""

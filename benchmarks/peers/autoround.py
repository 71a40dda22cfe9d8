"""Runs AutoRound's command line in an environment of its own, measured, and reads what it says.

AutoRound takes calibration text as JSON lines, one sample a line. It drops every sample that its tokenizer makes
shorter than ``seqlen`` and goes on with fewer, so each line here carries some tokens more than needed, which it cuts
off, and the number that was left is read from its output.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec

from edgepress.benchmarks.peers.edgepress_file import the_gguf_file
from edgepress.benchmarks.peers.measured import Run, Word, run_measured
from edgepress.errors import EdgepressError, InputError, require

# Tokens that a sample carries beyond its length: cut text can read back as a few tokens fewer.
SPARE = 16

_PACKAGES = ("auto-round", "torch", "transformers", "numpy", "datasets", "gguf")
_KEPT = re.compile(r"Saving the dataset \(\d+/\d+ shards\):\s+100%[^\r\n]*?\| (\d+)/\d+")
_TUNING = re.compile(r"quantization tuning time ([0-9.]+)")
_QUANTIZED = re.compile(r"Summary: quantized (\d+)/(\d+)")
_LOSS = re.compile(r"loss iter 0: (\S+) -> iter \d+: ([0-9.e+-]+)")


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What AutoRound's output says of a run.

    ``block_losses`` has the mean squared error of every block before and after tuning; it is empty with ``--iters 0``.
    """

    samples: int
    tuning_s: float
    quantized_layers: int
    layers: int
    block_losses: tuple[tuple[float, float], ...]


def parse_output(output: str) -> Said:
    """Read a finished run's output.

    Raises:
        EdgepressError: something is missing; AutoRound's version may word it otherwise.
    """
    found = {}
    for name, pattern in {"samples kept": _KEPT, "tuning time": _TUNING, "summary": _QUANTIZED}.items():
        matches = pattern.findall(output)
        if not matches:
            raise EdgepressError(f"AutoRound's output has no {name}; wanted a line like {pattern.pattern!r}")
        found[name] = matches[-1]
    quantized, of = found["summary"]
    return Said(
        samples=int(found["samples kept"]),
        tuning_s=float(found["tuning time"]),
        quantized_layers=int(quantized),
        layers=int(of),
        block_losses=tuple((float(before), float(after)) for before, after in _LOSS.findall(output)),
    )


def write_samples(text: str, tokenizer_dir: Path, out: Path, *, samples: int, length: int) -> None:
    """Write consecutive stretches of a text as JSON lines, ``length`` tokens each and :data:`SPARE` of the next.

    Raises:
        InputError: the text is too short.
    """
    tokenizers = require("tokenizers", "compress")
    tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    needed = samples * length + SPARE
    if len(offsets) < needed:
        raise InputError(f"the calibration text has {len(offsets)} tokens; {samples} × {length} + {SPARE} are needed")
    lines = []
    for index in range(samples):
        start, end = offsets[index * length][0], offsets[(index + 1) * length + SPARE - 1][1]
        lines.append(json.dumps({"text": text[start:end]}) + "\n")
    out.write_text("".join(lines), encoding="utf-8")


class AutoRound(msgspec.Struct, frozen=True, kw_only=True):
    """An environment with AutoRound in it, and how to run it."""

    python: Path
    threads: int
    extra: tuple[str, ...] = ()

    def about(self, log: Path) -> dict[str, Any]:
        """Versions of AutoRound and of what it computes with; left in ``log`` as JSON.

        Raises:
            InputError: it is not installed there.
        """
        if not self.python.is_file():
            raise InputError(f"{self.python}: no such interpreter; this script's docstring says how to make it")
        code = f"import importlib.metadata as m, json; print(json.dumps({{p: m.version(p) for p in {_PACKAGES!r}}}))"
        run_measured([self.python, "-c", code], log)
        versions: dict[str, Any] = json.loads(log.read_text(encoding="utf-8"))
        return versions

    def quantize(
        self, student: Path, dataset: Path, folder: Path, options: list[str], *, samples: int, length: int
    ) -> tuple[Path, Run, Said]:
        """A q4_0 GGUF of a student; the folder is emptied first.

        Raises:
            EdgepressError: it failed, or worked with fewer samples than were given.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        command: list[Word] = [self.python, "-m", "auto_round", "--model", student]
        command += ["--scheme", "GGUF:Q4_0", "--format", "gguf:q4_0", "--device", "cpu"]
        command += ["--dataset", dataset, "--nsamples", str(samples), "--seqlen", str(length)]
        command += [*options, *self.extra, "--output_dir", folder / "out"]
        log = folder / "autoround.log"
        variables = {
            "OMP_NUM_THREADS": str(self.threads),
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": "",
        }
        run = run_measured(command, log, variables)
        said = parse_output(log.read_text(encoding="utf-8", errors="replace"))
        if said.samples != samples:
            raise EdgepressError(f"AutoRound kept {said.samples} of {samples} samples; see {log}")
        return the_gguf_file(folder / "out", "AutoRound"), run, said

"""The steps of a comparison with llama-quantize on one calibration text: importance matrix, quantizing, judging."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from edgepress.artifact.hf_config import model_spec
from edgepress.benchmarks.peers.edgepress_file import calibration_section, compress_and_export
from edgepress.benchmarks.peers.gguf_files import quantize_step, tensor_types
from edgepress.benchmarks.peers.judged import Entry, code_digest, digest, read_entry, write_entry
from edgepress.benchmarks.peers.measured import Run
from edgepress.benchmarks.peers.reference import Reference
from edgepress.benchmarks.peers.texts import cut_tokens, describe, read
from edgepress.compress.calibrate.overlap import refuse_overlap

# Which of edgepress's solvers stands against which way of running llama-quantize. "budget" is gptaq with formats of its
# own choice for a file of at most ``--budget-share`` of llama-quantize's bytes; the others take its types.
# "_qad" trains codes and scales afterwards.
RIVALS = {
    **dict.fromkeys(["gptaq", "gptaq_qad", "budget", "budget_qad", "scale_search"], "imatrix"),
    "nearest": "plain",
}

Maker = Callable[[], tuple[Path, list[Run]]]


class Contest:
    """The folder of one comparison, and the steps in it.

    ``skip`` is the chunks to leave out at the start of the calibration text: contests that share a reference and skip
    ``calibration_chunks`` more each time have stretches with nothing in common.
    """

    def __init__(self, options: argparse.Namespace, reference: Reference, work: Path, *, skip: int) -> None:
        self.options = options
        self.reference = reference
        self.work = work
        self.work.mkdir(parents=True, exist_ok=True)
        self.skip = skip
        self.student = reference.student
        self.tools = reference.tools
        self.spec = model_spec(json.loads(read(self.student / "config.json")))
        self.calibration = self.work / "calibration.txt"
        self.entries: list[Entry] = []
        self.runs: dict[str, Run] = {}

    def prepare_text(self) -> None:
        """Cut the calibration text.

        Raises:
            InputError: it is too short, or shares a passage with the evaluation text.
        """
        options = self.options
        tokens = options.calibration_chunks * options.calibration_context
        skip = self.skip * options.calibration_context
        text = cut_tokens(read(options.calibration), self.student, skip=skip, tokens=tokens)
        refuse_overlap([text], [read(options.evaluation)], "skip that part with --calibration-skip")
        self.calibration.write_text(text, encoding="utf-8")

    def run(self) -> None:
        """All steps, for all formats."""
        options = self.options
        self.runs |= self.reference.runs
        imatrix = self.work / "imatrix.gguf"
        size = {"chunks": options.calibration_chunks, "context": options.calibration_context}
        self.runs["imatrix"] = self.tools.imatrix(self.reference.f32, self.calibration, imatrix, **size)
        for kind in options.formats:
            self._quantize(imatrix, kind)

    def judge_reference(self) -> None:
        """The reference against itself: the floor of the divergence."""
        self._entry("f32", "llama.cpp", "reference", [], lambda: (self.reference.f32, [self.reference.runs["convert"]]))

    def _quantize(self, imatrix: Path, kind: str) -> None:
        options = self.options
        windows = (options.solver_chunks or options.calibration_chunks, options.calibration_context, options.seed)
        calibration = calibration_section(self.calibration, *windows)
        for solver in options.solvers:
            method = RIVALS[solver]
            theirs = self.find(kind, method) or self._llama_quantize(imatrix, kind, method)
            if options.only_llama:
                continue
            step, folder = self._step(solver, theirs), self.work / f"edgepress-{kind}-{solver}"
            make = partial(compress_and_export, self.student, calibration, step, folder)
            self._entry(kind, "edgepress", solver, [calibration, step, code_digest()], make)

    def _llama_quantize(self, imatrix: Path, kind: str, method: str) -> Entry:
        weighted = imatrix if method == "imatrix" else None
        path = self.work / f"llama-{kind}-{method}.gguf"
        embedding = self.options.token_embedding_type

        def make() -> tuple[Path, list[Run]]:
            run = self.tools.quantize(self.reference.f32, path, kind.upper(), weighted, embedding)
            return path, [self.runs["imatrix"], run] if weighted else [run]

        return self._entry(kind, "llama-quantize", method, [embedding], make)

    def _step(self, solver: str, theirs: Entry) -> dict[str, Any]:
        """The quantize step that stands against a file of llama-quantize's."""
        method = solver.removesuffix("_qad")
        if method == "budget":
            shares = self.options.budget_share
            share = shares[self.options.formats.index(theirs.format) if len(shares) > 1 else 0]
            megabytes = share * theirs.file_bytes / 1e6
            step = {"step": "quantize", "solver": "gptaq", "target_mb": megabytes}
        else:
            step = quantize_step(tensor_types(theirs.path), self.spec, method)
        if method == solver:
            return step
        return step | {"qad_tokens": self.options.qad_tokens, "qad_samples": self.options.calibration_chunks}

    def _entry(self, kind: str, maker: str, method: str, made_of: list[Any], make: Maker) -> Entry:
        """Make a file and judge it, or take over what an earlier, interrupted run found by the same means."""
        name = f"judged-{maker}-{kind}-{method}"
        key = digest([self.reference.key, describe(self.calibration), self.options.threads, made_of])
        entry = read_entry(self.work / f"{name}.json", key)
        if entry is None:
            (self.work / f"{name}.json").unlink(missing_ok=True)  # its file is about to be another
            path, making = make()
            entry = self.reference.judge(path, kind, maker, method, making, self.work / f"{name}.log")
            write_entry(self.work / f"{name}.json", key, entry)
        self.entries.append(entry)
        return entry

    def find(self, kind: str, method: str) -> Entry | None:
        """The file of a format that was made by a method."""
        return next((entry for entry in self.entries if (entry.format, entry.method) == (kind, method)), None)

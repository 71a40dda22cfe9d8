"""The steps of a comparison with llama-quantize on one calibration text: importance matrix, quantizing, judging."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from edgepress.artifact.hf_config import model_spec
from edgepress.benchmarks.peers.edgepress_file import calibration_section, compress_and_export
from edgepress.benchmarks.peers.gguf_files import quantize_step, tensor_types
from edgepress.benchmarks.peers.llama_tools import Run
from edgepress.benchmarks.peers.reference import Entry, Reference
from edgepress.benchmarks.peers.texts import cut_tokens, read
from edgepress.compress.calibrate.overlap import refuse_overlap

# Which of edgepress's solvers stands against which way of running llama-quantize. "budget" is gptaq with formats of its
# own choice for a file of at most ``--budget-share`` of llama-quantize's bytes; the others take its types.
RIVALS = {"gptaq": "imatrix", "budget": "imatrix", "scale_search": "imatrix", "nearest": "plain"}


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
        self._judge(self.reference.f32, "f32", "llama.cpp", "reference", [self.reference.runs["convert"]])

    def _quantize(self, imatrix: Path, kind: str) -> None:
        calibration = calibration_section(
            self.calibration,
            self.options.calibration_chunks,
            self.options.calibration_context,
            self.options.seed,
        )
        for solver in self.options.solvers:
            method = RIVALS[solver]
            theirs = self.find(kind, method) or self._llama_quantize(imatrix, kind, method)
            if not self.options.only_llama:
                folder = self.work / f"edgepress-{kind}-{solver}"
                ours, making = compress_and_export(self.student, calibration, self._step(solver, theirs), folder)
                self._judge(ours, kind, "edgepress", solver, making)

    def _llama_quantize(self, imatrix: Path, kind: str, method: str) -> Entry:
        weighted = imatrix if method == "imatrix" else None
        path = self.work / f"llama-{kind}-{method}.gguf"
        embedding = self.options.token_embedding_type
        making = [self.tools.quantize(self.reference.f32, path, kind.upper(), weighted, embedding)]
        making = [self.runs["imatrix"], *making] if weighted else making
        return self._judge(path, kind, "llama-quantize", method, making)

    def _step(self, solver: str, theirs: Entry) -> dict[str, Any]:
        """The quantize step that stands against a file of llama-quantize's."""
        if solver == "budget":
            shares = self.options.budget_share
            share = shares[self.options.formats.index(theirs.format) if len(shares) > 1 else 0]
            megabytes = share * theirs.file_bytes / 1e6
            return {"step": "quantize", "solver": "gptaq", "target_mb": megabytes}
        return quantize_step(tensor_types(theirs.path), self.spec, solver)

    def _judge(self, path: Path, kind: str, maker: str, method: str, making: list[Run]) -> Entry:
        log = self.work / f"judged-{maker}-{kind}-{method}.log"
        entry = self.reference.judge(path, kind, maker, method, making, log)
        self.entries.append(entry)
        return entry

    def find(self, kind: str, method: str) -> Entry | None:
        """The file of a format that was made by a method."""
        return next((entry for entry in self.entries if (entry.format, entry.method) == (kind, method)), None)

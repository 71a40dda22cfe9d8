"""The steps of a comparison with llama-quantize, in one folder: reference, calibration, quantizing, judging."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import yaml

from edgepress.artifact.hf_config import model_spec
from edgepress.benchmarks.peers.gguf_files import quantize_step, tensor_types
from edgepress.benchmarks.peers.llama_tools import Divergence, Run, Tools, Word, run_measured
from edgepress.benchmarks.peers.texts import cut_tokens, read
from edgepress.compress.calibrate.overlap import refuse_overlap
from edgepress.errors import InputError
from edgepress.progress import say

# Which of edgepress's solvers stands against which way of running llama-quantize. "budget" is gptaq with formats of its
# own choice for a file of at most ``--budget-share`` of llama-quantize's bytes; the others take its types.
RIVALS = {"gptaq": "imatrix", "budget": "imatrix", "scale_search": "imatrix", "nearest": "plain"}


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One quantized file: who made it and how, what it cost, and what it lost."""

    format: str
    maker: str
    method: str
    path: Path
    file_bytes: int
    types: dict[str, int]
    embedding: str
    making: list[Run]
    divergence: Divergence

    @property
    def wall_s(self) -> float:
        """Seconds to make the file from the student, calibration included."""
        return sum(run.wall_s for run in self.making)

    @property
    def peak_rss_bytes(self) -> int:
        """The most that any process held on the way."""
        return max(run.peak_rss_bytes for run in self.making)


class Contest:
    """The folder of one comparison, and the steps in it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.work: Path = options.work.resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        self.student: Path = options.student.resolve()
        self.tools = Tools(folder=options.tools.resolve(), threads=options.threads)
        self.spec = model_spec(json.loads(read(self.student / "config.json")))
        self.calibration = self.work / "calibration.txt"
        self.entries: list[Entry] = []
        self.runs: dict[str, Run] = {}

    def run(self) -> None:
        """All steps, for all formats."""
        options = self.options
        self._prepare_texts()
        f32 = self.work / "f32.gguf"
        self.runs["convert"] = self.tools.convert(sys.executable, self.student, f32)
        size = {"chunks": options.calibration_chunks, "context": options.calibration_context}
        imatrix = self.work / "imatrix.gguf"
        self.runs["imatrix"] = self.tools.imatrix(f32, self.calibration, imatrix, **size)
        size = {"chunks": options.chunks, "context": options.context}
        try:
            self.runs["reference"] = self.tools.save_reference(f32, options.evaluation, self._reference, **size)
            self._judge(f32, "f32", "llama.cpp", "reference", [self.runs["convert"]])
            for kind in options.formats:
                self._quantize(f32, imatrix, kind)
        finally:
            self._reference.unlink(missing_ok=True)  # a gigabyte for a vocabulary of 49152

    @property
    def _reference(self) -> Path:
        return self.work / "reference.logits"

    def _prepare_texts(self) -> None:
        options = self.options
        tokens = options.calibration_chunks * options.calibration_context
        skip = options.calibration_skip * options.calibration_context
        text = cut_tokens(read(options.calibration), self.student, skip=skip, tokens=tokens)
        refuse_overlap([text], [read(options.evaluation)], "skip that part with --calibration-skip")
        self.calibration.write_text(text, encoding="utf-8")

    def _quantize(self, f32: Path, imatrix: Path, kind: str) -> None:
        for solver in self.options.solvers:
            method = RIVALS[solver]
            theirs = self.find(kind, method) or self._llama_quantize(f32, imatrix, kind, method)
            if not self.options.only_llama:
                ours, making = self._edgepress(kind, solver, self._step(solver, theirs))
                self._judge(ours, kind, "edgepress", solver, making)

    def _llama_quantize(self, f32: Path, imatrix: Path, kind: str, method: str) -> Entry:
        weighted = imatrix if method == "imatrix" else None
        path = self.work / f"llama-{kind}-{method}.gguf"
        making = [self.tools.quantize(f32, path, kind.upper(), weighted, self.options.token_embedding_type)]
        making = [self.runs["imatrix"], *making] if weighted else making
        return self._judge(path, kind, "llama-quantize", method, making)

    def _step(self, solver: str, theirs: Entry) -> dict[str, Any]:
        """The quantize step that stands against a file of llama-quantize's."""
        if solver == "budget":
            megabytes = self.options.budget_share * theirs.file_bytes / 1e6
            return {"step": "quantize", "solver": "gptaq", "target_mb": megabytes}
        return quantize_step(tensor_types(theirs.path), self.spec, solver)

    def _edgepress(self, kind: str, solver: str, step: dict[str, Any]) -> tuple[Path, list[Run]]:
        """Compress and export; the recipe is written beside the result."""
        folder = self.work / f"edgepress-{kind}-{solver}"
        shutil.rmtree(folder, ignore_errors=True)  # what an earlier run left would make this one look fast
        folder.mkdir()
        recipe = self._recipe(step)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        place = {"EDGEPRESS_CACHE": str(folder / "cache")}
        tool = Path(sys.executable).with_name("edgepress")
        compressed, exported = folder / "compressed", folder / "exported"
        compress: list[Word] = [tool, "compress", self.student, "--recipe", folder / "recipe.yaml", "-o", compressed]
        export: list[Word] = [tool, "export", compressed, "--to", "gguf", "-o", exported]
        making = [
            run_measured(compress, folder / "compress.log", place),
            run_measured(export, folder / "export.log", place),
        ]
        files = sorted(exported.rglob("*.gguf"))
        if len(files) != 1:
            raise InputError(f"{exported}: wanted one .gguf file from edgepress export, found {len(files)}")
        return files[0], making

    def _recipe(self, step: dict[str, Any]) -> dict[str, Any]:
        calibration = {
            "self": False,
            "files": [str(self.calibration)],
            "samples": self.options.calibration_chunks,
            "length": self.options.calibration_context,
            "seed": self.options.seed,
        }
        return {"calibration": calibration, "compress": [step], "export": ["gguf"]}

    def _judge(self, path: Path, kind: str, maker: str, method: str, making: list[Run]) -> Entry:
        log = self.work / f"judged-{maker}-{kind}-{method}.log"
        divergence, _ = self.tools.divergence(path, self._reference, log)
        types = tensor_types(path)
        entry = Entry(
            format=kind,
            maker=maker,
            method=method,
            path=path,
            file_bytes=path.stat().st_size,
            types=dict(Counter(types.values())),
            embedding=types["token_embd.weight"],
            making=making,
            divergence=divergence,
        )
        self.entries.append(entry)
        say(f"{maker} {kind} {method}: mean KLD {divergence.kld_mean:.6f} ± {divergence.kld_se:.6f}")
        return entry

    def find(self, kind: str, method: str) -> Entry | None:
        """The file of a format that was made by a method."""
        return next((entry for entry in self.entries if (entry.format, entry.method) == (kind, method)), None)

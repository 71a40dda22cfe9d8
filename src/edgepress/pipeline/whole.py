"""``edgepress run``: compress, export, files to compare with, measurements, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgepress.compress.student.student import Student
from edgepress.pipeline.by_stage import measure_stages
from edgepress.pipeline.by_tensor import measure_tensors
from edgepress.pipeline.costs import ENGINES
from edgepress.pipeline.float_gguf import write_float_gguf
from edgepress.pipeline.llama_quantize import peer_models
from edgepress.pipeline.measure import measure_run
from edgepress.pipeline.run import compress
from edgepress.pipeline.stages import Output, stage_key
from edgepress.pipeline.trim import trimmed_student
from edgepress.recipe import Recipe
from edgepress.runtime.locate import ModelFile, choose_model


def run_whole(student: Student, recipe: Recipe, out: Path) -> dict[str, Any]:
    """Run a recipe from end to end; return the figures by model and the report's path.

    Raises:
        InputError, ParityError: as :func:`~edgepress.pipeline.run.compress`.
    """
    from edgepress.benchmarks.report.page import write_report

    compress(student, recipe, out, recipe.export)
    original, student = student, trimmed_student(student, recipe, out)
    output = Output(out)
    with output.claim("run"):
        models: dict[str, ModelFile] = {target: choose_model(out / target, ENGINES[target]) for target in recipe.export}
        measured = recipe.evaluate is not None or recipe.bench is not None
        if recipe.baseline and "gguf" in recipe.export and measured:
            models["baseline"] = baseline_model(student, output)
        peers = peer_models(student, recipe, output)
        measure_run(student, models, out, peers, evaluate=recipe.evaluate, bench=recipe.bench, samples=recipe.samples)
        measure_tensors(student, recipe, out)
        measure_stages(original, recipe, out)
        report = write_report(out)
    return {
        "out": str(out),
        "report": str(report),
        "models": {label: _row(out, label, model) for label, model in (models | peers).items()},
    }


def baseline_model(student: Student, output: Output) -> ModelFile:
    """The student itself as a half-precision GGUF file: what the compressed files are compared with."""

    def make(directory: Path) -> None:
        write_float_gguf(student, "f16", directory / "model.gguf")

    directory = output.run("baseline", stage_key("baseline", 1, student.digest(), student.name), make)
    return ModelFile(engine="llama.cpp", path=directory / "model.gguf")


def _row(out: Path, label: str, model: ModelFile) -> dict[str, Any]:
    row: dict[str, Any] = {"path": str(model.path), "file_bytes": model.file_bytes, "file_mb": model.file_bytes / 1e6}
    quality = _load(out / "measurements" / f"quality-{label}.json")
    if quality:
        row |= {key: quality[key] for key in ("kld_mean", "kld_se", "ppl", "ppl_reference", "bits_per_weight")}
        row["top1_percent"] = 100 * quality["top1_agreement"]
    latency = _load(out / "measurements" / f"latency-{label}.json")
    if latency:
        row |= {key: latency[key] for key in ("prefill_tokens_per_s", "decode_tokens_per_s", "ttft_ms")}
        row["peak_rss_mb"] = latency["peak_rss_bytes"] / 1e6
    return row


def _load(path: Path) -> dict[str, Any] | None:
    return msgspec.json.decode(path.read_bytes()) if path.is_file() else None

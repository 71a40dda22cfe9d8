"""The page: reads an output directory, draws, and fills page.html. Texts are escaped by the template, always.

plotly.js is embedded once, in front of the first figure; nothing on the page is fetched from anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edgepress import __version__
from edgepress.artifact.files import write_atomically
from edgepress.artifact.spec import ModelSpec
from edgepress.benchmarks.report import against_peers, reproduce, tables, verdict
from edgepress.benchmarks.report.artifacts import Artifact, list_artifacts, own
from edgepress.benchmarks.report.by_stage import stage_table, stage_words
from edgepress.benchmarks.report.by_tensor import by_tensor
from edgepress.benchmarks.report.contents import Contents, read_contents
from edgepress.benchmarks.report.figures import layer_maps
from edgepress.benchmarks.report.figures.kld_map import kld_map
from edgepress.benchmarks.report.figures.memory import memory_legend, memory_parts
from edgepress.benchmarks.report.figures.shape import shape_map
from edgepress.benchmarks.report.figures.size_against_kld import size_against_kld
from edgepress.benchmarks.report.figures.speed import rates
from edgepress.benchmarks.report.figures.text_windows import kld_by_window
from edgepress.benchmarks.report.figures.theme import Figure
from edgepress.benchmarks.report.figures.token_latency import cut_words, latency_distribution, latency_over_steps
from edgepress.benchmarks.report.fill import fill
from edgepress.benchmarks.report.machine import machines
from edgepress.benchmarks.report.notes import notes
from edgepress.benchmarks.report.numerals import significant
from edgepress.benchmarks.report.samples import side_by_side

REPORT_FILE = "report.html"


def write_report(out: Path) -> Path:
    """Write ``out/report.html`` from what lies in ``out``; everything but the manifest may be missing.

    Returns:
        the page's path.

    Raises:
        InputError: no manifest, a damaged file (which is named), a full disk.
        MissingExtraError: plotly or jinja2 is not installed.
    """
    path = out / REPORT_FILE
    write_atomically(path, render(read_contents(out)))
    return path


def render(contents: Contents) -> str:
    """The page as text."""
    artifacts = list_artifacts(contents)
    texts = _measured(contents, artifacts) | _layers(contents, artifacts) | _provenance(contents, artifacts)
    return fill("page.html", texts, _figures(contents, artifacts))


def _measured(contents: Contents, artifacts: tuple[Artifact, ...]) -> dict[str, Any]:
    """What the sections on measurements need."""
    manifest = contents.manifest
    return {
        "manifest": manifest,
        "chips": [(artifact.title, artifact.colour) for artifact in own(artifacts)],
        "origin": verdict.origin(manifest, layer_maps.depth_of(contents.tensors)),
        "headline": verdict.headline(manifest, artifacts),
        "lead": verdict.lead(artifacts) + against_peers.lead(artifacts),
        "cards": verdict.cards(contents, artifacts),
        "notes": notes(contents, artifacts),
        "has_quality": bool(contents.quality),
        "has_latency": bool(contents.latency),
        "peers": against_peers.contents_words(contents, artifacts),
        "quality_table": tables.quality_table(manifest, artifacts),
        "speed_table": tables.speed_table(artifacts),
        "memory_table": tables.memory_table(artifacts),
        "memory_legend": memory_legend(),
        "cut_words": cut_words(artifacts),
        "prompts": side_by_side(contents.samples, tuple(artifact.label for artifact in artifacts))
        if contents.samples
        else (),
    }


def _layers(contents: Contents, artifacts: tuple[Artifact, ...]) -> dict[str, Any]:
    """What the section on layers needs."""
    colours = layer_maps.format_colours(contents.tensors)
    worst, outside = layer_maps.worst(contents.errors, 3), layer_maps.outside(contents.errors)
    return {
        "formats_table": tables.formats_table(contents.tensors, colours),
        "outside": [(name, significant(error.relative_error), error.format) for name, error in outside],
        "worst": [(error.name, significant(error.relative_error), error.format) for error in worst],
        "search": _search(contents),
        "bound": _bound(contents),
        "token_time": _token_time(contents),
        "distilled": _distilled(contents),
        "frontier": contents.search is not None and bool(contents.search.frontier),
        "by_tensor": by_tensor(contents.attribution, artifacts),
        "stage_table": stage_table(contents.shape),
        "stage_words": stage_words(contents.shape),
        "rounded_inputs": next((each.input_format for each in contents.tensors if each.input_format != "float"), ""),
        "weighted": all(error.weighted for error in contents.errors),
    }


def _search(contents: Contents) -> tuple[str, str] | None:
    """Divergence of the chosen formats, and of random ones."""
    if contents.search is None:
        return None
    random = contents.search.random_kld
    return significant(contents.search.tried_kld), significant(sum(random) / len(random))


def _bound(contents: Contents) -> tuple[str, str, bool] | None:
    """Divergence of the solved model, what the recipe allows, and whether that is met."""
    search = contents.search
    if search is None or search.solved_kld is None or search.max_kld is None:
        return None
    return significant(search.solved_kld), significant(search.max_kld), search.solved_kld <= search.max_kld


def _token_time(contents: Contents) -> tuple[str, str, str] | None:
    """Predicted milliseconds per token: of the chosen formats, allowed, and without the bound."""
    if contents.search is None or contents.search.time is None:
        return None
    time = contents.search.time
    return significant(time.chosen_ms), significant(time.target_ms), significant(time.unbounded_ms)


def _distilled(contents: Contents) -> tuple[str, str, str] | None:
    """Tokens trained on, and the held-out divergence before and after."""
    record = contents.distillation
    if record is None:
        return None
    divergences = [found for _, found in record.held_out]
    return f"{record.tokens:,}", significant(divergences[0]), significant(min(divergences))


def _provenance(contents: Contents, artifacts: tuple[Artifact, ...]) -> dict[str, Any]:
    """What the sections on files and reproduction need."""
    manifest = contents.manifest
    return {
        "version": __version__,
        "file_groups": tables.file_groups(manifest),
        "recipe": reproduce.recipe_yaml(manifest),
        "commands": reproduce.command_lines(manifest, artifacts),
        "identity": reproduce.identity_facts(manifest),
        "protocols": reproduce.protocols(contents),
        "machines": machines(artifacts),
    }


def _figures(contents: Contents, artifacts: tuple[Artifact, ...]) -> dict[str, Figure]:
    """All figures that there is data for, in the page's order."""
    depth = layer_maps.depth_of(contents.tensors)
    drawers: dict[str, Callable[[], Figure | None]] = {
        "size": lambda: size_against_kld(artifacts, verdict.fp16_bytes(contents.manifest), contents.search),
        "decode": lambda: rates(artifacts, "decode"),
        "prefill": lambda: rates(artifacts, "prefill"),
        "distribution": lambda: latency_distribution(artifacts),
        "steps": lambda: latency_over_steps(artifacts),
        "memory": lambda: memory_parts(artifacts),
        "shape": lambda: shape_map(contents.shape, _model(contents)) if contents.shape else None,
        "nats": lambda: kld_map(contents.attribution.tensors, depth) if contents.attribution else None,
        "errors": lambda: layer_maps.error_map(contents.errors, depth),
        "formats": lambda: layer_maps.format_map(contents.tensors, depth),
        "windows": lambda: kld_by_window(own(artifacts)),
    }
    drawn = {name: draw() for name, draw in drawers.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _model(contents: Contents) -> ModelSpec:
    return msgspec.convert(contents.manifest.model, ModelSpec)

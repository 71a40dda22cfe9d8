"""The numbers behind the pictures, as rows of text; page.html lays them out."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from edgepress.artifact.formats import FORMATS
from edgepress.artifact.manifest import FileEntry, Manifest
from edgepress.artifact.plan import TensorPlan
from edgepress.benchmarks.records import BenchRecord, DepthRecord, PeakMemory, QualityRecord
from edgepress.benchmarks.report.artifacts import Artifact
from edgepress.benchmarks.report.numerals import (
    change,
    interval,
    megabytes,
    megabytes_column,
    milliseconds,
    plus_minus,
    rate,
    significant,
    whole,
)
from edgepress.benchmarks.report.verdict import fp16_bytes

NONE = "–"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row: its name, with a spot of colour where it has one, and right-aligned cells."""

    name: str
    cells: tuple[str, ...]
    colour: str = ""


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """``head`` has the name of the first column, then one per cell. ``id`` is the element's, for links."""

    id: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]


class FileGroup(msgspec.Struct, frozen=True, kw_only=True):
    """The files of one directory."""

    name: str
    summary: str
    files: tuple[FileEntry, ...]
    shown: bool


def quality_table(manifest: Manifest, artifacts: tuple[Artifact, ...]) -> Table:
    """Size and loss of every artifact, under a row for the fp16 weights that the size is counted from."""
    full = fp16_bytes(manifest)
    sizes = megabytes_column([full, *(artifact.file_bytes for artifact in artifacts)])
    start = Row(name="fp16 weights", cells=(sizes[0], "1.000", "16.00", *(NONE,) * 6))
    rows = [
        Row(
            name=artifact.title,
            colour=artifact.colour,
            cells=(size, *_size_cells(artifact.file_bytes, full), *_quality_cells(artifact.quality)),
        )
        for artifact, size in zip(artifacts, sizes[1:], strict=True)
    ]
    head = (
        "file",
        "MB",
        "× fp16",
        "bits per weight",
        "mean KLD, nats",
        "99 % KLD",
        "greatest KLD",
        "same next token, %",
        "perplexity",
        "change",
    )
    return Table(id="quality-table", head=head, rows=(start, *rows))


def _size_cells(count: int, full: int) -> tuple[str, str]:
    return (f"{count / full:.3f}", f"{16 * count / full:.2f}") if full else (NONE, NONE)


def _quality_cells(quality: QualityRecord | None) -> tuple[str, ...]:
    if quality is None:
        return ("not measured", *(NONE,) * 5)
    return (
        plus_minus(quality.kld_mean, quality.kld_se),
        significant(quality.kld_p99),
        significant(quality.kld_max),
        plus_minus(quality.top1_agreement, quality.top1_se, 100),
        plus_minus(quality.ppl, quality.ppl_se),
        change(quality.ppl_ratio, quality.ppl_ratio_se),
    )


def speed_table(artifacts: Iterable[Artifact]) -> Table:
    """Rates and latencies of every artifact at every depth."""
    rows = [
        Row(name=depth_title(artifact, depth), colour=artifact.colour, cells=_speed_cells(artifact.latency, depth))
        for artifact in artifacts
        if artifact.latency
        for depth in artifact.latency.depths
    ]
    head = (
        "file",
        "decode, tokens/s",
        "95 % interval",
        "prefill, tokens/s",
        "95 % interval",
        "first token, ms",
        "token p50, ms",
        "p90",
        "p99",
        "load, ms",
    )
    return Table(id="speed-table", head=head, rows=tuple(rows))


def depth_title(artifact: Artifact, depth: DepthRecord) -> str:
    """The artifact's name, with the depth where several were measured."""
    several = artifact.latency is not None and len(artifact.latency.depths) > 1
    return f"{artifact.title}, {whole(depth.depth)} in cache" if several else artifact.title


def _speed_cells(latency: BenchRecord, depth: DepthRecord) -> tuple[str, ...]:
    decode, prefill = depth.decode_tokens_per_s_spread, depth.prefill_tokens_per_s_spread
    return (
        rate(depth.decode_tokens_per_s),
        interval(decode.low95, decode.high95),
        rate(depth.prefill_tokens_per_s),
        interval(prefill.low95, prefill.high95),
        milliseconds(depth.ttft_ms),
        milliseconds(depth.token_ms_p50),
        milliseconds(depth.token_ms_p90),
        milliseconds(depth.token_ms_p99),
        milliseconds(latency.load_ms),
    )


def memory_table(artifacts: Iterable[Artifact]) -> Table:
    """Memory of every artifact's process, in MB."""
    measured = [(artifact, artifact.latency.memory) for artifact in artifacts if artifact.latency]
    columns = zip(*(_memory_counts(artifact.file_bytes, memory) for artifact, memory in measured), strict=True)
    cells = zip(*(megabytes_column(column) for column in columns), strict=True)
    rows = [
        Row(name=artifact.title, colour=artifact.colour, cells=mine)
        for (artifact, _), mine in zip(measured, cells, strict=True)
    ]
    head = (
        "MB",
        "file",
        "peak resident",
        "private",
        "mapped file pages",
        "before the model",
        "weights, says the engine",
        "KV cache",
    )
    return Table(id="memory-table", head=head, rows=tuple(rows))


def _memory_counts(file_bytes: int, memory: PeakMemory) -> tuple[int | None, ...]:
    return (
        file_bytes,
        memory.peak_rss_bytes,
        memory.peak_anonymous_bytes,
        memory.peak_file_bytes,
        memory.start_rss_bytes,
        memory.engine_weights_bytes,
        memory.engine_kv_cache_bytes,
    )


def formats_table(tensors: tuple[TensorPlan, ...], colours: dict[str, str]) -> Table:
    """How many parameters ship in which format, most bits last; ``colours`` are those of the format map."""
    names = sorted({tensor.format for tensor in tensors}, key=format_rank)
    counts = {name: [tensor.values for tensor in tensors if tensor.format == name] for name in names}
    sizes = megabytes_column([_format_bytes(name, tensors) for name in names])
    total = max(1, sum(tensor.values for tensor in tensors))
    rows = [
        Row(
            name=name,
            colour=colours.get(name, ""),
            cells=(
                whole(len(values)),
                whole(sum(values)),
                f"{100 * sum(values) / total:.1f}",
                f"{FORMATS[name].bits_per_value:.2f}" if name in FORMATS else NONE,
                size,
            ),
        )
        for (name, values), size in zip(counts.items(), sizes, strict=True)
    ]
    head = ("format", "tensors", "parameters", "share, %", "bits each", "MB packed")
    return Table(id="formats-table", head=head, rows=tuple(rows))


def _format_bytes(name: str, tensors: Iterable[TensorPlan]) -> int | None:
    return sum(tensor.data_bytes for tensor in tensors if tensor.format == name) if name in FORMATS else None


def format_rank(name: str) -> tuple[float, str]:
    """Formats by bits per value; those this version does not know come last."""
    known = FORMATS.get(name)
    return (known.bits_per_value if known else float("inf")), name


def file_groups(manifest: Manifest) -> tuple[FileGroup, ...]:
    """Files by directory, the checkpoint's many shards folded away."""
    groups: dict[str, list[FileEntry]] = {}
    for file in manifest.files:
        groups.setdefault(file.path.partition("/")[0], []).append(file)
    return tuple(
        FileGroup(
            name=name,
            summary=f"{len(files)} file{'s' * (len(files) > 1)}, {megabytes(sum(file.bytes for file in files))}",
            files=tuple(files),
            shown=name != "checkpoint",
        )
        for name, files in sorted(groups.items(), key=lambda group: (group[0] == "checkpoint", group[0]))
    )

"""The numbers behind the pictures, as rows of text; page.html lays them out."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from edgepress.artifact.families import EMBEDDING, HEAD
from edgepress.artifact.formats import FORMATS
from edgepress.artifact.manifest import FileEntry, Manifest
from edgepress.artifact.plan import TensorPlan
from edgepress.benchmarks.records import BenchRecord, DepthRecord, PeakMemory, QualityRecord
from edgepress.benchmarks.report.artifacts import Artifact
from edgepress.benchmarks.report.contents import TensorError
from edgepress.benchmarks.report.numerals import (
    change,
    interval,
    megabytes,
    megabytes_value,
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
    start = Row(name="fp16 weights", cells=(megabytes_value(full), "1.00", "16.00", *(NONE,) * 6))
    rows = [
        Row(
            name=artifact.title,
            colour=artifact.colour,
            cells=(
                megabytes_value(artifact.file_bytes),
                significant(artifact.file_bytes / full),
                significant(8 * artifact.file_bytes / manifest.parameters),
                *_quality_cells(artifact.quality),
            ),
        )
        for artifact in artifacts
    ]
    head = (
        "file",
        "MB",
        "× fp16",
        "bits per weight",
        "mean KLD, nats",
        "99 % KLD",
        "greatest",
        "same next token, %",
        "perplexity",
        "change",
    )
    return Table(id="quality-table", head=head, rows=(start, *rows))


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
    rows = [
        Row(
            name=artifact.title, colour=artifact.colour, cells=_memory_cells(artifact.file_bytes, artifact.latency.memory)
        )
        for artifact in artifacts
        if artifact.latency
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


def _memory_cells(file_bytes: int, memory: PeakMemory) -> tuple[str, ...]:
    counts = (
        file_bytes,
        memory.peak_rss_bytes,
        memory.peak_anonymous_bytes,
        memory.peak_file_bytes,
        memory.start_rss_bytes,
        memory.engine_weights_bytes,
        memory.engine_kv_cache_bytes,
    )
    return tuple(NONE if count is None else megabytes_value(count) for count in counts)


def formats_table(tensors: tuple[TensorPlan, ...], colours: dict[str, str]) -> Table:
    """How many parameters ship in which format, most bits last; ``colours`` are those of the format map."""
    total = sum(tensor.values for tensor in tensors)
    rows = []
    for name in sorted({tensor.format for tensor in tensors}, key=format_rank):
        mine = [tensor for tensor in tensors if tensor.format == name]
        values, known = sum(tensor.values for tensor in mine), FORMATS.get(name)
        cells = (
            whole(len(mine)),
            whole(values),
            f"{100 * values / total:.1f}" if total else NONE,
            significant(known.bits_per_value, 2) if known else NONE,
            megabytes_value(known.tensor_bytes(values)) if known else NONE,
        )
        rows.append(Row(name=name, colour=colours.get(name, ""), cells=cells))
    head = ("format", "tensors", "parameters", "share, %", "bits each", "MB in GGUF")
    return Table(id="formats-table", head=head, rows=tuple(rows))


def format_rank(name: str) -> tuple[float, str]:
    """Formats by bits per value; those this version does not know come last."""
    known = FORMATS.get(name)
    return (known.bits_per_value if known else float("inf")), name


def outside_table(errors: tuple[TensorError, ...]) -> Table:
    """Embedding and head, which are no part of a layer."""
    names = {EMBEDDING: "embedding", HEAD: "head"}
    rows = [
        Row(name=names[error.name], cells=(error.format, significant(error.relative_error)))
        for error in errors
        if error.name in names
    ]
    return Table(id="outside-table", head=("outside the layers", "format", "relative error"), rows=tuple(rows))


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

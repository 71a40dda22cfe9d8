"""What the commands print for a person."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table

from edgepress.benchmarks.cost_records import CostsRecord
from edgepress.benchmarks.records import BenchRecord, CompareRecord, QualityRecord
from edgepress.cli.app import print_json
from edgepress.compress.student.student import Student
from edgepress.pipeline.plan import RunPlan


def print_rows(rows: list[tuple[str, str]]) -> None:
    """Two columns without a frame."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    _print(table)


def print_plan(student: Student, plan: RunPlan, *, json: bool) -> None:
    """The plan of a run: formats, exact sizes, memory."""
    formats: dict[str, int] = {}
    for tensor in plan.model.tensors:
        formats[tensor.format] = formats.get(tensor.format, 0) + 1
    if json:
        print_json(
            {
                "student": student.name,
                "notes": student.notes,
                "parameters": plan.model.parameters,
                "files": plan.files,
                "checkpoint_bytes_about": plan.checkpoint_bytes,
                "compare_bytes_at_most": plan.compare_bytes,
                "peak_memory_bytes": plan.peak_memory_bytes,
                "fell_back": plan.fell_back,
                "tensors": plan.model.tensors,
            }
        )
        return
    rows = [("student", f"{student.name}, {student.parameters / 1e6:.1f} M parameters, {student.source}")]
    rows += [("note", note) for note in student.notes]
    rows += [("formats", ", ".join(f"{count} × {name}" for name, count in formats.items()))]
    rows += [("falls back", f"{name} → {plan.model.format(name)}") for name in plan.fell_back]
    rows += [(path, f"{size} bytes") for path, size in plan.files.items()]
    rows += [("checkpoint", f"about {plan.checkpoint_bytes / 1e6:.0f} MB")]
    rows += [("llama.cpp's own", f"at most {plan.compare_bytes / 1e6:.0f} MB")] if plan.compare_bytes else []
    rows += [("peak memory", f"about {plan.peak_memory_bytes / 1e6:.0f} MB")]
    print_rows(rows)


def print_quality(record: QualityRecord) -> None:
    """A quality record."""
    print_rows(
        [
            ("engine", record.engine),
            ("mean KLD", f"{record.kld_mean:.5f} ± {record.kld_se:.5f} nats"),
            ("99 % KLD", f"{record.kld_p99:.4f}"),
            ("top-1 agreement", f"{100 * record.top1_agreement:.2f} ± {100 * record.top1_se:.2f} %"),
            ("perplexity", f"{record.ppl:.3f} ± {record.ppl_se:.3f}"),
            ("student's", f"{record.ppl_reference:.3f} ± {record.ppl_reference_se:.3f}"),
            ("file", f"{record.file_bytes} bytes, {record.bits_per_weight:.3f} bits per weight"),
            ("scored", f"{record.tokens} tokens; {record.protocol}"),
        ]
    )


def print_bench(record: BenchRecord) -> None:
    """A bench record."""
    spread = record.decode_tokens_per_s_spread
    interval = f" (95 % of the mean: {spread.low95:.1f} to {spread.high95:.1f})" if spread.low95 is not None else ""
    rows = [
        ("engine", f"{record.engine}, {record.n_threads} threads"),
        ("load", f"{record.load_ms:.0f} ms"),
        ("time to first token", f"{record.ttft_ms:.1f} ms for {record.scenario.prompt} tokens"),
        ("prefill", f"{record.prefill_tokens_per_s:.1f} tokens/s"),
        ("decode", f"{record.decode_tokens_per_s:.1f} tokens/s{interval}"),
        (
            "per token",
            f"p50 {record.token_ms_p50:.2f}, p90 {record.token_ms_p90:.2f}, p99 {record.token_ms_p99:.2f} ms",
        ),
        ("peak RSS", f"{record.peak_rss_bytes / 1e6:.1f} MB"),
        ("file", f"{record.file_bytes} bytes"),
    ]
    print_rows(rows + [("warning", warning) for warning in record.warnings])


def print_costs(record: CostsRecord) -> None:
    """Costs by shape and format, and what all the model's matrices come to in each."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("format")
    for shape in record.shapes:
        table.add_column(f"{shape.rows} × {shape.columns}", justify="right")
    table.add_column("all, ms per token", justify="right")
    by_key = {(cost.format, cost.rows, cost.columns): cost for cost in record.costs}
    for format in dict.fromkeys(cost.format for cost in record.costs):
        found = [by_key.get((format, shape.rows, shape.columns)) for shape in record.shapes]
        times = [None if cost is None else cost.decode_ms for cost in found]
        total = sum(ms * shape.count for ms, shape in zip(times, record.shapes, strict=True) if ms is not None)
        cells = [_cell(ms, "{:.4f}") for ms in times]
        table.add_row(format, *cells, _cell(None if None in times else total, "{:.2f}"))
    _print(table)
    print(f"milliseconds per matrix and decoded token; {record.engine}, {record.threads} threads")
    print_rows([("warning", text) for text in record.warnings])


def print_compare(record: CompareRecord) -> None:
    """A comparison's verdicts."""
    print_rows([("", sentence) for sentence in record.verdict] + [("warning", text) for text in record.warnings])


def print_results(results: dict[str, Any]) -> None:
    """What a run made, one line per file."""
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("file", "MB", "KLD", "top-1 %", "ppl", "prefill t/s", "decode t/s", "peak RSS MB"):
        # Only heads of several words make room, by wrapping: what is in the cells is read whole.
        longest = max(map(len, column.split()))
        side: JustifyMethod = "left" if column == "file" else "right"
        table.add_column(column, justify=side, no_wrap=" " not in column, min_width=longest)
    for label, row in results["models"].items():
        table.add_row(label, *(_cell(row.get(key), pattern) for key, pattern in _COLUMNS))
    _print(table)
    print(f"report: {results['report']}")


_COLUMNS = (
    ("file_mb", "{:.1f}"),
    ("kld_mean", "{:.5f}"),
    ("top1_percent", "{:.1f}"),
    ("ppl", "{:.2f}"),
    ("prefill_tokens_per_s", "{:.0f}"),
    ("decode_tokens_per_s", "{:.1f}"),
    ("peak_rss_mb", "{:.0f}"),
)


def _cell(value: float | None, pattern: str) -> str:
    return "–" if value is None else pattern.format(value)


def _print(table: Table) -> None:
    # A name with brackets or colons in it is no markup.
    Console(highlight=False, soft_wrap=False, markup=False, emoji=False).print(table)

"""Mean and standard deviation over contests on several stretches of calibration text.

The deviation is that of one calibration text to the next (n - 1 in the denominator), not that of the evaluation's
tokens: the evaluation text is the same for all.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from edgepress.benchmarks.peers.judged import Entry
from edgepress.benchmarks.peers.record import markdown_table

Item = TypeVar("Item")


def spread(values: Sequence[float]) -> dict[str, Any]:
    """The values with their mean and their sample standard deviation; the deviation of one value is None."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"values": list(values), "mean": statistics.fmean(values), "sd": deviation}


def spread_of_entries(contests: Sequence[Sequence[Entry]]) -> list[dict[str, Any]]:
    """Mean divergence, wall time and bytes of every kind of file, over the contests that made it."""
    groups = _group(contests, lambda entry: (entry.format, entry.maker, entry.method))
    return [
        {
            "format": kind,
            "maker": maker,
            "method": method,
            "file_bytes": sorted({entry.file_bytes for entry in entries}),
            "kld_mean": spread([entry.divergence.kld_mean for entry in entries]),
            "wall_s": spread([entry.wall_s for entry in entries]),
        }
        for (kind, maker, method), entries in groups.items()
    ]


def spread_of_pairs(contests: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The ratio of divergences of every pair. Each contest gives one ratio: both sides saw the same stretch."""
    groups = _group(contests, lambda pair: (pair["format"], pair["edgepress"], pair["llama_quantize"]))
    return [
        {
            "format": kind,
            "edgepress": ours,
            "llama_quantize": theirs,
            "kld_ratio": spread([pair["kld_ratio"] for pair in pairs]),
            "file_bytes_ratio": spread([pair["file_bytes_ratio"] for pair in pairs]),
        }
        for (kind, ours, theirs), pairs in groups.items()
    ]


def spread_table(entries: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]]) -> str:
    """Both as one Markdown table: a row for each kind of file, with its ratio where it is edgepress's."""
    ratios = {(pair["format"], pair["edgepress"]): pair["kld_ratio"] for pair in pairs}
    heads = ["format", "by", "method", "file bytes", "n", "mean KLD, mean ± sd", "ratio, mean ± sd", "made in s"]
    rows = []
    for entry in entries:
        ratio = ratios.get((entry["format"], entry["method"])) if entry["maker"] == "edgepress" else None
        rows.append(
            [
                *(entry["format"], entry["maker"], entry["method"]),
                " ".join(f"{size:,}" for size in entry["file_bytes"]),
                str(len(entry["kld_mean"]["values"])),
                _words(entry["kld_mean"], 5),
                _words(ratio, 4) if ratio else "",
                f"{entry['wall_s']['mean']:.0f}",
            ]
        )
    return markdown_table(heads, rows)


def _words(figures: dict[str, Any], digits: int) -> str:
    mean, deviation = figures["mean"], figures["sd"]
    return f"{mean:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")


def _group(
    contests: Sequence[Sequence[Item]], key: Callable[[Item], tuple[str, str, str]]
) -> dict[tuple[str, str, str], list[Item]]:
    groups: dict[tuple[str, str, str], list[Item]] = {}
    for contest in contests:
        for item in contest:
            groups.setdefault(key(item), []).append(item)
    return groups

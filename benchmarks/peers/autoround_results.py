"""The results of a comparison with AutoRound: merged over runs, as entries, as a table and as ratios."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edgepress.benchmarks.peers.gguf_files import tensor_types, type_differences
from edgepress.benchmarks.peers.judged import Entry
from edgepress.benchmarks.peers.record import markdown_table
from edgepress.errors import InputError

VARIANTS = ("edgepress", "iters0", "tuned")


def merge(earlier: dict[str, Any] | None, common: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """The document: this run's variants, and those of earlier runs that were not run again.

    Raises:
        InputError: the earlier runs had another student, other texts or another protocol.
    """
    kept = {}
    if earlier is not None:
        for name, value in common.items():
            if earlier["common"].get(name) != value:
                raise InputError(
                    f"the work folder holds results with {name} {earlier['common'].get(name)!r}, this run has "
                    f"{value!r}; take another --work, or delete its against_autoround.json"
                )
        kept = earlier["variants"]
    return {"common": common, "variants": kept | found}


def entries_of(document: dict[str, Any]) -> dict[str, Entry]:
    """Name → file, in the order of :data:`VARIANTS`."""
    variants = document["variants"]
    return {
        name: msgspec.convert(variants[name], Entry, dec_hook=lambda _, value: Path(value))
        for name in VARIANTS
        if name in variants
    }


def table(entries: dict[str, Entry]) -> str:
    """The variants as a Markdown table; wall time also as a share of tuned AutoRound's."""
    heads = ["by", "variant", "file bytes", "token_embd", "mean KLD ± se", "99 % KLD", "same top %", "PPL ± se"]
    heads += ["wall s", "of tuned's", "CPU s", "peak RSS MB"]
    tuned = entries.get("tuned")
    rows = []
    for name, entry in entries.items():
        lost = entry.divergence
        rows.append(
            [
                *(entry.maker, name, f"{entry.file_bytes:,}", entry.embedding),
                f"{lost.kld_mean:.5f} ± {lost.kld_se:.5f}",
                f"{lost.kld_p99:.4f}",
                f"{lost.top1_agreement_percent:.2f}",
                f"{lost.ppl:.3f} ± {lost.ppl_se:.3f}",
                f"{entry.wall_s:.0f}",
                f"{entry.wall_s / tuned.wall_s:.3f}" if tuned else "",
                f"{entry.cpu_s:.0f}",
                f"{entry.peak_rss_bytes / 1e6:.0f}",
            ]
        )
    return markdown_table(heads, rows)


def compare(entries: dict[str, Entry]) -> dict[str, float | int]:
    """edgepress over each of AutoRound's ways: divergence, wall time, memory, bytes; empty without edgepress."""
    ours = entries.get("edgepress")
    ratios: dict[str, float | int] = {}
    for name, theirs in entries.items():
        if ours is None or name == "edgepress":
            continue
        ratios[f"kld_ratio_to_{name}"] = ours.divergence.kld_mean / theirs.divergence.kld_mean
        ratios[f"wall_ratio_to_{name}"] = ours.wall_s / theirs.wall_s
        ratios[f"peak_rss_ratio_to_{name}"] = ours.peak_rss_bytes / theirs.peak_rss_bytes
        ratios[f"file_bytes_difference_to_{name}"] = ours.file_bytes - theirs.file_bytes
    return ratios


def types_apart(entries: dict[str, Entry]) -> dict[str, int]:
    """Tensors whose type is not edgepress's, for each of AutoRound's files; none are expected."""
    ours = entries.get("edgepress")
    if ours is None:
        return {}
    mine = tensor_types(ours.path)
    others = {name: entry for name, entry in entries.items() if name != "edgepress"}
    return {name: len(type_differences(mine, tensor_types(entry.path))) for name, entry in others.items()}

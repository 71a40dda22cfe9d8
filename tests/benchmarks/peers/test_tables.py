"""Ratios, spreads and merged results are what a calculation by hand gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from peer_entries import entry_of, run_of

from edgepress.benchmarks.peers.autoround_results import compare, entries_of, merge, table
from edgepress.benchmarks.peers.memory_by_depth import Peak, growth
from edgepress.benchmarks.peers.stretches import spread, spread_of_entries, spread_of_pairs, spread_table
from edgepress.errors import InputError


def test_the_deviation_is_that_of_a_sample() -> None:
    values = [0.05, 0.06, 0.075]
    figures = spread(values)
    assert figures["mean"] == pytest.approx(np.mean(values))
    assert figures["sd"] == pytest.approx(np.std(values, ddof=1))
    assert spread([0.05]) == {"values": [0.05], "mean": 0.05, "sd": None}


def test_each_stretch_gives_one_divergence_and_one_ratio() -> None:
    contests = [
        [entry_of("edgepress", "gptaq", kld, [run_of()]), entry_of("llama-quantize", "imatrix", 0.2, [run_of()])]
        for kld in (0.1, 0.12)
    ]
    pairs: list[list[dict[str, Any]]] = [
        [{"format": "q4_0", "edgepress": "gptaq", "llama_quantize": "imatrix", "kld_ratio": r, "file_bytes_ratio": 1.0}]
        for r in (0.5, 0.6)
    ]
    entries, ratios = spread_of_entries(contests), spread_of_pairs(pairs)
    ours, theirs = entries
    assert (ours["maker"], ours["kld_mean"]["values"]) == ("edgepress", [0.1, 0.12])
    assert theirs["kld_mean"]["sd"] == 0
    assert ratios[0]["kld_ratio"]["mean"] == pytest.approx(0.55)
    first, second = spread_table(entries, ratios).splitlines()[2:]
    assert "0.11000 ± 0.01414" in first and "0.5500 ± 0.0707" in first
    assert "0.20000 ± 0.00000" in second and "0.5500" not in second


def test_a_file_costs_the_sum_of_its_commands_times_and_the_largest_of_their_memories() -> None:
    entry = entry_of("edgepress", "gptaq", 0.1, [run_of(10, 5000), run_of(2, 9000), run_of(1, 100)])
    assert (entry.wall_s, entry.cpu_s, entry.peak_rss_bytes) == (13, 26, 9000)


def test_ratios_to_autoround_are_ours_over_theirs() -> None:
    entries = {
        "edgepress": entry_of("edgepress", "edgepress", 0.06, [run_of(200, 900), run_of(100, 800)], 104),
        "tuned": entry_of("AutoRound", "tuned", 0.10, [run_of(1200, 1800)]),
    }
    ratios = compare(entries)
    assert ratios == {
        "kld_ratio_to_tuned": pytest.approx(0.6),
        "wall_ratio_to_tuned": pytest.approx(0.25),
        "peak_rss_ratio_to_tuned": pytest.approx(0.5),
        "file_bytes_difference_to_tuned": 4,
    }
    rows = table(entries).splitlines()
    assert "0.250" in rows[2] and "1.000" in rows[3]
    assert compare({"tuned": entries["tuned"]}) == {}


def test_parts_run_one_after_another_make_one_document() -> None:
    common = {"chunks": 80, "calibration": "abc"}
    parts = [
        {name: msgspec.to_builtins(entry_of(name, name, kld, [run_of()]), enc_hook=str)}
        for name, kld in (("tuned", 0.1), ("edgepress", 0.06), ("tuned", 0.11))
    ]
    document: dict[str, Any] | None = None
    for part in parts:
        document = merge(document, common, part)
    assert document is not None
    entries = entries_of(document)
    assert list(entries) == ["edgepress", "tuned"]
    assert entries["tuned"].divergence.kld_mean == 0.11
    assert entries["edgepress"].path == Path("model.gguf")


def test_parts_with_another_protocol_are_not_put_in_one_table() -> None:
    earlier = merge(None, {"chunks": 80}, {})
    with pytest.raises(InputError, match=r"chunks 80.*40"):
        merge(earlier, {"chunks": 40}, {})


def test_growth_is_the_slope_of_the_peaks_over_depth() -> None:
    peaks = [
        Peak(recipe=name, depth=depth, fp32_bytes=50 + 7 * depth, stated_bytes=999, run=run_of(1, base + slope * depth))
        for name, base, slope in (("flat", 300, 0), ("growing", 100, 14))
        for depth in (10, 20, 30)
    ]
    flat, growing = growth(peaks)
    assert flat.bytes_per_layer == pytest.approx(0, abs=1e-6)
    assert growing.bytes_per_layer == pytest.approx(14)
    assert growing.layer_fp32_bytes == pytest.approx(7)
    assert growing.share == pytest.approx(2)
    assert growth(peaks[:1]) == []

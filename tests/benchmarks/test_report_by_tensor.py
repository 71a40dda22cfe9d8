"""The loss by tensor and the search's frontier on the page are those of the records."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from report_output import DEPTH, ERRORS, Page, make_output, numbers, save

from edgepress.artifact.families import EMBEDDING, HEAD, LINEARS, layer_name
from edgepress.benchmarks.records import QualityRecord
from edgepress.benchmarks.report import write_report
from edgepress.benchmarks.report.numerals import plus_minus, significant

NATS = {name: 1e-3 * error for name, error in ERRORS.items()} | {EMBEDDING: 0.05, HEAD: 0.0}
FLOAT = layer_name(1, LINEARS["attn_k"])
NATS[FLOAT] = 0.0
ROLES = {role: sum(NATS[layer_name(layer, part)] for layer in range(DEPTH)) for role, part in LINEARS.items()}
ALLOCATION: dict[str, Any] = {
    "budget_bytes": 11_000_000,
    "used_bytes": 10_000_000,
    "other_bytes": 1_000_000,
    "predicted_kld": 0.02,
    "tried_kld": 0.03,
    "random_kld": [0.05, 0.06, 0.07],
    "tensors": [],
    "frontier": [
        {"file_bytes": 9_000_000, "predicted_kld": 20.0},
        {"file_bytes": 11_000_000, "predicted_kld": 0.02},
        {"file_bytes": 14_000_000, "predicted_kld": 0.001},
    ],
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("by-tensor") / "out"


@pytest.fixture(scope="module")
def quality(out: Path) -> dict[str, QualityRecord]:
    records, _ = make_output(out)
    tensors = [{"name": name, "format": "f32" if nats == 0 else "q4_0", "kld": nats} for name, nats in NATS.items()]
    roles = ROLES | {"embedding": 0.05}
    record = {"tokens": 1024, "roles": roles, "together_kld": 0.123, "tensors": tensors}
    save(out / "measurements/tensors.json", record)
    save(out / "checkpoint/allocation.json", ALLOCATION)
    return records


@pytest.fixture(scope="module")
def page(out: Path, quality: object) -> Page:
    return Page(write_report(out))


def test_the_map_has_the_nats_of_every_matrix_and_the_embedding_beside(page: Page) -> None:
    (inside, beside), layout = page.figure("nats")
    assert inside["y"] == list(LINEARS)
    for row, part in enumerate(LINEARS.values()):
        for layer in range(DEPTH):
            name, nats = layer_name(layer, part), NATS[layer_name(layer, part)]
            if name == FLOAT:
                assert inside["z"][row][layer] is None
                continue
            shown = max(math.log10(nats), math.log10(0.05) - 3)
            assert inside["z"][row][layer] == pytest.approx(shown, abs=1e-3)
            assert inside["customdata"][row][layer][0] == name
            assert numbers(inside["customdata"][row][layer][1]) == pytest.approx([nats], rel=5e-3)
    assert beside["x"] == ["embed."]
    assert beside["z"] == [[pytest.approx(math.log10(0.05), abs=1e-3)]]
    assert (beside["zmin"], beside["zmax"]) == (inside["zmin"], inside["zmax"])
    assert layout["xaxis"]["domain"][1] < layout["xaxis2"]["domain"][0]


def test_the_costliest_are_named_and_the_sum_stands_beside_what_was_measured(
    page: Page, quality: dict[str, QualityRecord]
) -> None:
    words = " ".join(page.texts["by-tensor"].split())
    total = sum(NATS.values())
    worst = layer_name(DEPTH - 1, LINEARS["ffn_down"])
    share = f"{100 * 0.05 / total:.1f} % of the sum"
    assert words.startswith(f"Costliest: {EMBEDDING} (0.0500 nats, {share}, q4_0), {worst} (")
    assert f"embedding 0.0500, ffn_down {significant(ROLES['ffn_down'])}, ffn_up" in words
    assert f"All tensors sum to {total:.4f} nats. Together they cost 0.123 on the same 1,024 tokens" in words
    for label in ("GGUF", "ONNX"):
        record = quality[label.lower()]
        assert f"{label} {plus_minus(record.kld_mean, record.kld_se)} on {record.tokens} positions" in words
    assert "baseline" not in words


def test_the_frontier_is_drawn_behind_the_files_with_what_was_chosen(page: Page) -> None:
    traces, layout = page.figure("size")
    named = {trace["name"]: trace for trace in traces if "name" in trace}
    line = named["predicted frontier of this search"]
    assert (line["x"], line["y"]) == ([9.0, 11.0, 14.0], [20.0, 0.02, 0.001])
    assert line["cliponaxis"] is True and layout["yaxis"]["range"][1] < 20
    assert (named["formats chosen, as predicted"]["x"], named["formats chosen, as predicted"]["y"]) == ([11.0], [0.02])
    assert named["formats chosen, as tried"]["y"] == [0.03]
    assert named["random formats of the same bytes, as tried"]["y"] == [0.05, 0.06, 0.07]
    assert traces[-1]["text"] == ["predicted frontier of this search"]
    assert "Dotted" in page.texts["size"]


def test_nothing_is_said_of_tensors_that_lost_nothing(tmp_path: Path) -> None:
    make_output(tmp_path / "out")
    silent = {"name": EMBEDDING, "format": "f32", "kld": 0.0}
    record = {"tokens": 1024, "roles": {}, "together_kld": 0.0, "tensors": [silent]}
    save(tmp_path / "out/measurements/tensors.json", record)
    found = Page(write_report(tmp_path / "out"))
    assert "figure-nats" not in found.source
    assert "by-tensor" not in found.texts

"""The page, taken apart again: what it says is what the records say, and nothing foreign runs or loads."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from report_output import (
    DEPTH,
    ERRORS,
    PARAMETERS,
    RECIPE,
    Page,
    make_bench,
    make_manifest,
    make_output,
    make_quality,
    numbers,
    save,
)

from edgepress.artifact.families import LINEARS, layer_name
from edgepress.benchmarks.records import BenchRecord, QualityRecord
from edgepress.benchmarks.report import write_report
from edgepress.benchmarks.statistics import t_quantile_975

TITLES = {"gguf": "GGUF", "onnx": "ONNX", "baseline": "f16 baseline"}
HOSTILE = "</script></pre><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}{% raw %}&amp;\"'"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report") / "out"


@pytest.fixture(scope="module")
def records(out: Path) -> tuple[dict[str, QualityRecord], dict[str, BenchRecord]]:
    return make_output(out)


@pytest.fixture(scope="module")
def page(out: Path, records: object) -> Page:
    return Page(write_report(out))


def test_the_quality_table_holds_the_records(
    page: Page, records: tuple[dict[str, QualityRecord], dict[str, BenchRecord]]
) -> None:
    for label, record in records[0].items():
        cells = [numbers(cell) for cell in page.row("quality-table", TITLES[label])[1:]]
        size, share, bits, kld, p99, greatest, agreement, perplexity, change = cells
        assert size == pytest.approx([record.file_bytes / 1e6], abs=0.05)
        assert share == pytest.approx([record.file_bytes / (2 * PARAMETERS)], abs=5e-4)
        assert bits == pytest.approx([record.bits_per_weight], abs=0.005)
        assert kld == pytest.approx([record.kld_mean, record.kld_se], rel=0.05)
        assert [*p99, *greatest] == pytest.approx([record.kld_p99, record.kld_max], rel=0.005)
        assert agreement[0] == pytest.approx(100 * record.top1_agreement, rel=0.01)
        assert perplexity == pytest.approx([record.ppl, record.ppl_se], rel=0.05)
        assert change == pytest.approx(
            [100 * (record.ppl_ratio - 1), 100 * record.ppl_ratio_se], rel=0.05, abs=record.ppl_ratio_se
        )


def test_the_speed_and_memory_tables_hold_the_records(
    page: Page, records: tuple[dict[str, QualityRecord], dict[str, BenchRecord]]
) -> None:
    for label, record in records[1].items():
        cells = [numbers(cell) for cell in page.row("speed-table", TITLES[label])[1:]]
        decode = record.decode_tokens_per_s_spread
        assert cells[0] == pytest.approx([record.decode_tokens_per_s], abs=0.05)
        assert cells[1] == pytest.approx([decode.low95, decode.high95], abs=0.05)
        assert cells[2] == pytest.approx([record.prefill_tokens_per_s], abs=0.5)
        times = (record.ttft_ms, record.token_ms_p50, record.token_ms_p90, record.token_ms_p99, record.load_ms)
        assert [cell[0] for cell in cells[4:]] == pytest.approx(list(times), abs=0.05)
        memory = record.memory
        megabytes = [numbers(cell)[0] for cell in page.row("memory-table", TITLES[label])[1:]]
        counts = [record.file_bytes, memory.peak_rss_bytes, memory.peak_anonymous_bytes, memory.peak_file_bytes]
        counts += [memory.start_rss_bytes, memory.engine_weights_bytes, memory.engine_kv_cache_bytes]
        assert megabytes == pytest.approx([(count or 0) / 1e6 for count in counts], abs=0.05)


def test_the_verdict_names_before_after_and_what_the_student_was(page: Page) -> None:
    assert page.texts["headline"] == "40.0 MB of fp16 weights are now 12.3 MB as GGUF and 11.2 MB as ONNX."
    assert "BF16 (22 tensors)" in page.texts["origin"]
    assert "20,000,000 parameters, 3 layers" in page.texts["origin"]
    lead = page.texts["lead"]
    assert re.search(r"GGUF agrees .* decodes [\d.]+ tokens/s, (1\.9|2\.0)\d* × as fast as the f16 baseline", lead)


def test_cautions_and_fallbacks_are_in_sight(page: Page) -> None:
    notes = page.texts["notes"]
    assert "a note on the student" in notes
    assert f"{layer_name(1, 'mlp.up_proj')} ships as q4_0" in notes


def test_warnings_of_a_bench_name_the_files_they_concern(tmp_path: Path) -> None:
    make_output(tmp_path / "out")
    save(tmp_path / "out/measurements/latency-onnx.json", make_bench(6.0, 11_000_000, repetitions=2))
    notes = Page(write_report(tmp_path / "out")).texts["notes"]
    assert "speed of ONNX 2 repetitions" in notes
    assert "speed of ONNX measured with another scenario" in notes


def test_the_scatter_has_every_file_with_its_interval(
    page: Page, records: tuple[dict[str, QualityRecord], dict[str, BenchRecord]]
) -> None:
    traces, layout = page.figure("size")
    assert [trace["text"] for trace in traces] == [["GGUF"], ["ONNX"], ["f16 baseline"]]
    for trace, label in zip(traces, ("gguf", "onnx", "baseline"), strict=True):
        record = records[0][label]
        assert trace["x"] == [record.file_bytes / 1e6]
        assert trace["y"] == [record.kld_mean]
        assert trace["error_y"]["array"] == pytest.approx([record.kld_se * t_quantile_975(5)])
    assert layout["shapes"][0]["x0"] == pytest.approx(2 * PARAMETERS / 1e6)
    assert layout["xaxis"]["range"][0] == 0
    assert layout["yaxis"]["range"][0] <= 0


def test_the_latency_figures_hold_all_raw_samples(
    page: Page, records: tuple[dict[str, QualityRecord], dict[str, BenchRecord]]
) -> None:
    distribution, _ = page.figure("distribution")
    over_steps, _ = page.figure("steps")
    decode, _ = page.figure("decode")
    for place, record in enumerate(records[1][label] for label in ("gguf", "onnx", "baseline")):
        raw = np.array(record.samples_token_ms)
        assert distribution[place]["x"] == pytest.approx(np.sort(raw.ravel()).tolist(), rel=1e-4)
        assert distribution[place]["y"][-1] == 100
        dots, median = over_steps[2 * place : 2 * place + 2]
        assert sorted(dots["y"]) == pytest.approx(np.sort(raw.ravel()).tolist(), rel=1e-4)
        assert median["y"] == pytest.approx(np.median(raw, axis=0).tolist(), rel=1e-4)
        assert decode[0]["x"][place] == record.decode_tokens_per_s
        assert decode[2 + place]["x"] == pytest.approx((1e3 / raw.mean(axis=1)).tolist())


def test_the_maps_have_every_layer_and_role(page: Page) -> None:
    (heat,), layout = page.figure("errors")
    (formats,), _ = page.figure("formats")
    assert heat["y"] == list(LINEARS)
    assert layout["yaxis"]["autorange"] == "reversed"
    for row, part in enumerate(LINEARS.values()):
        for layer in range(DEPTH):
            assert heat["z"][row][layer] == pytest.approx(math.log10(ERRORS[layer_name(layer, part)]), abs=1e-3)
            assert formats["customdata"][row][layer] == ("q5_0" if part == "mlp.down_proj" else "q4_0")
    assert page.row("formats-table", "q5_0")[1:3] == ["3", "3,072"]
    assert "the embedding (3.00×10⁻⁶, q8_0)" in page.visible
    assert f"Most was lost in {layer_name(2, 'mlp.down_proj')}" in page.visible


def test_windows_files_and_answers_are_there(
    page: Page, records: tuple[dict[str, QualityRecord], dict[str, BenchRecord]]
) -> None:
    traces, _ = page.figure("windows")
    assert traces[1]["y"] == pytest.approx(list(records[0]["onnx"].window_kld), rel=1e-4)
    for text in ("gguf/model.gguf", "12,345,678", f"{12_345_678:064x}", "checkpoint/model-00001-of-00001.safetensors"):
        assert text in page.visible
    assert "one two <mark>four</mark>" in page.source
    assert "identical" in page.texts["answers"]


def test_it_says_how_to_get_there_again(page: Page) -> None:
    assert yaml.safe_load(page.texts["recipe"]) == RECIPE
    assert page.texts["commands"].splitlines() == [
        "edgepress run 'dir with space/tiny' --recipe recipe.yaml -o OUT",
        "edgepress eval OUT/gguf --against 'dir with space/tiny' --text 'text one.txt' --tokens 64 --context 33 --json",
        "edgepress bench OUT/gguf --prompt 100 --generate 20 --depth 0 --repetitions 5 --threads 2 --json",
        "edgepress eval OUT/onnx --against 'dir with space/tiny' --text 'text one.txt' --tokens 64 --context 33 --json",
        "edgepress bench OUT/onnx --prompt 100 --generate 20 --depth 0 --repetitions 5 --threads 2 --json",
    ]
    for text in ("d1" * 32, "ca" * 32, "9.8.7", "calibration.seed 17", "seed 23", "positions 0 to 31", "one untimed"):
        assert text in page.texts["reproduce"]


def test_nothing_is_fetched_and_plotly_is_there_once(page: Page) -> None:
    assert all(link.startswith("#") or link == "data:," for link in page.links)
    assert page.links
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert len(re.findall(r"plotly\.js v\d", page.source)) == 1
    assert page.source.index("plotly.js v") < page.source.index("Plotly.newPlot(")


def test_equal_records_give_equal_pages(out: Path, page: Page) -> None:
    assert write_report(out).read_text(encoding="utf-8") == page.source
    assert not list(out.glob(".report*"))


def test_hostile_texts_stay_texts(tmp_path: Path, page: Page) -> None:
    out = tmp_path / "out"
    make_output(out)
    hostile = {"student_source": HOSTILE, "student_notes": (HOSTILE,), "student_stored_types": {HOSTILE: 1}}
    make_manifest(out, name=HOSTILE, tools={HOSTILE: HOSTILE}, recipe={"bench": {HOSTILE: HOSTILE}}, **hostile)
    label = "<img src=x onerror=alert(3)>{{ 7*7 }}%{x}"
    save(out / f"measurements/quality-{label}.json", make_quality(0.3, 9_000_000, tmp_path))
    save(out / f"measurements/latency-{label}.json", make_bench(7.0, 9_000_000))
    sample = {"prompt": HOSTILE, "answers": {"student": HOSTILE, "gguf": HOSTILE[3:], HOSTILE: HOSTILE}}
    save(out / "measurements/samples.json", {"tokens": 1, "samples": [sample]})
    found = Page(write_report(out))
    assert "img" not in found.tags
    assert not found.handlers
    assert found.tags.count("script") == page.tags.count("script")
    assert HOSTILE in found.texts["answers"]
    assert HOSTILE in found.texts["notes"]
    assert label in found.texts["quality-table"]
    titles = [trace["text"][0] for trace in found.figure("size")[0]]
    assert "&lt;img src=x onerror=alert(3)&gt;{{ 7*7 }}%{x}" in titles
    assert all("alert" not in trace["hovertemplate"] for trace in found.figure("size")[0])

"""Pages of runs that measured little, searched for formats, or left damaged records."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from report_output import Page, make_bench, make_manifest, make_output, make_quality, numbers, save

from edgepress.benchmarks.report import write_report
from edgepress.errors import InputError, MissingExtraError


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    make_manifest(tmp_path)
    found = Page(write_report(tmp_path))
    for missing in (
        "Quality was not measured.",
        "Speed was not measured.",
        "Memory was not measured.",
        "No error by tensor was recorded.",
        "No answers were sampled.",
    ):
        assert missing in found.visible
    assert found.texts["headline"].endswith("12.3 MB as GGUF and 11.2 MB as ONNX.")
    assert found.row("quality-table", "GGUF")[4] == "not measured"


def test_a_search_for_formats_says_what_it_was_worth_and_what_a_token_is_predicted_to_take(tmp_path: Path) -> None:
    make_manifest(tmp_path)
    search = {"used_bytes": 1000, "predicted_kld": 0.1, "tried_kld": 0.125, "random_kld": [0.25, 0.75]}
    time = {"target_ms": 11.5, "chosen_ms": 11.25, "unbounded_ms": 13.75}
    (tmp_path / "checkpoint").mkdir()
    path = tmp_path / "checkpoint/allocation.json"
    path.write_text(json.dumps(search), encoding="utf-8")
    plain = Page(write_report(tmp_path)).visible
    assert "diverged by 0.125 nats" in plain and "random formats of the same bytes by 0.50" in plain
    assert "per decoded token" not in plain
    path.write_text(json.dumps(search | {"time": time}), encoding="utf-8")
    bounded = Page(write_report(tmp_path)).visible
    assert re.search(r"take 11\.2\d* ms per decoded token, where 11\.5\d* were allowed", bounded)
    assert re.search(r"without that bound would take 13\.[78]", bounded)


@pytest.mark.parametrize(("solved", "verdict"), [(0.04, ": met."), (0.06, ": not met, this is the best effort.")])
def test_the_page_says_whether_a_bound_on_the_divergence_was_met(tmp_path: Path, solved: float, verdict: str) -> None:
    make_manifest(tmp_path)
    search = {"used_bytes": 1000, "predicted_kld": 0.1, "tried_kld": 0.1, "random_kld": [0.2]}
    (tmp_path / "checkpoint").mkdir()
    path = tmp_path / "checkpoint/allocation.json"
    path.write_text(json.dumps(search | {"solved_kld": solved, "max_kld": 0.05}), encoding="utf-8")
    text = " ".join(Page(write_report(tmp_path)).visible.split())
    assert re.search(rf"diverge by {solved}0* nats per token .* allows 0\.050* ?{verdict}", text)


def test_a_file_that_lacks_one_measurement_is_named(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_output(out)
    (out / "measurements/quality-onnx.json").unlink()
    (out / "measurements/latency-baseline.json").unlink()
    found = Page(write_report(out))
    assert "quality not measured for ONNX" in found.texts["notes"]
    assert "speed not measured for f16 baseline" in found.texts["notes"]
    assert "as fast as" not in found.texts["lead"]


def test_several_depths_one_repetition_and_one_window_make_a_page(tmp_path: Path) -> None:
    make_manifest(tmp_path / "out")
    bench = make_bench(5.0, 12_000_000, depths=(0, 2000), repetitions=1, generate=1)
    save(tmp_path / "out/measurements/latency-gguf.json", bench)
    save(tmp_path / "out/measurements/quality-gguf.json", make_quality(0.3, 12_000_000, tmp_path, windows=1))
    found = Page(write_report(tmp_path / "out"))
    assert numbers(found.row("speed-table", "GGUF, 2,000 in cache")[1]) == pytest.approx(
        [bench.depths[1].decode_tokens_per_s], abs=0.05
    )
    assert found.row("speed-table", "GGUF, 0 in cache")[2] == "–"
    assert "figure-windows" not in found.source


@pytest.mark.parametrize(
    "place",
    [
        "measurements/quality-gguf.json",
        "measurements/latency-onnx.json",
        "measurements/samples.json",
        "measurements/tensors.json",
        "checkpoint/quantization.json",
        "checkpoint/allocation.json",
    ],
)
@pytest.mark.parametrize("content", [b"", b'{"tokens": ', b'{"engine": 3}', b"[3]", b"\xff\xfe"])
def test_a_damaged_measurement_is_one_line_that_names_it(tmp_path: Path, place: str, content: bytes) -> None:
    make_manifest(tmp_path)
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(Path(place).name)) as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_a_directory_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"manifest\.json"):
        write_report(tmp_path)


def test_missing_plotly_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_manifest(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "plotly", None)
    with pytest.raises(MissingExtraError, match=r"edgepress\[report\]"):
        write_report(tmp_path)

"""llama.cpp's own files in the report: grey beside ours, in the table and the scatter, and what the pairs say."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from checkpoints import write_checkpoint
from report_output import Page, make_manifest, make_output, make_quality, numbers, save
from tiny_models import make_model_dir

from edgepress.artifact.families import is_matrix
from edgepress.benchmarks.records import QualityRecord
from edgepress.benchmarks.report import write_report
from edgepress.export.gguf import export_gguf

OURS, GREY = "GGUF", "#8a929c"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("peers") / "out"


@pytest.fixture(scope="module")
def records(out: Path) -> dict[str, QualityRecord]:
    """Ours, which loses less than one of theirs, and as much as the other, but in other windows."""
    quality = make_output(out)[0]
    ours = quality["gguf"]
    quality["onnx"] = msgspec.structs.replace(quality["onnx"], engine="another")
    quality["llama.cpp-Q4_0"] = make_quality(0.6, 12_400_000, out.parent / "cache")
    quality["llama.cpp-Q4_K_M"] = msgspec.structs.replace(
        ours, file_bytes=15_000_000, window_kld=tuple(reversed(ours.window_kld))
    )
    for label, record in quality.items():
        save(out / f"measurements/quality-{label}.json", record)
    model = make_model_dir("llama", out.parent / "model")
    (out / "llama.cpp").mkdir()
    for mixture in ("Q4_0", "Q4_K_M"):
        checkpoint = write_checkpoint(model, out.parent / mixture, _format)
        export_gguf(checkpoint, out / "llama.cpp" / f"{mixture}.gguf")
    return quality


def _format(name: str) -> str:
    if not is_matrix(name):
        return "f32"
    return {"model.embed_tokens.weight": "q8_0", "model.layers.0.mlp.down_proj.weight": "q4_1"}.get(name, "q4_0")


@pytest.fixture(scope="module")
def page(out: Path, records: object) -> Page:
    return Page(write_report(out))


def test_they_stand_in_the_table_behind_ours(page: Page, records: dict[str, QualityRecord]) -> None:
    names = [row[0] for row in page.tables["quality-table"]]
    assert names == ["file", "fp16 weights", OURS, "ONNX", "llama.cpp Q4_0", "llama.cpp Q4_K_M", "f16 baseline"]
    for mixture in ("Q4_0", "Q4_K_M"):
        record = records[f"llama.cpp-{mixture}"]
        cells = [numbers(cell) for cell in page.row("quality-table", f"llama.cpp {mixture}")[1:]]
        assert cells[0] == pytest.approx([record.file_bytes / 1e6], abs=0.05)
        assert cells[3] == pytest.approx([record.kld_mean, record.kld_se], rel=0.05)


def test_they_are_grey_points_of_the_scatter(page: Page, records: dict[str, QualityRecord]) -> None:
    traces, _ = page.figure("size")
    marks = {trace["text"][0]: trace for trace in traces}
    for mixture in ("Q4_0", "Q4_K_M"):
        trace, record = marks[f"llama.cpp {mixture}"], records[f"llama.cpp-{mixture}"]
        assert (trace["x"], trace["y"]) == ([record.file_bytes / 1e6], [record.kld_mean])
        assert trace["marker"]["color"] == GREY
        assert trace["marker"]["symbol"] not in (marks[OURS]["marker"]["symbol"], "circle-open")
    assert marks[OURS]["marker"]["color"] != GREY


def test_ours_over_theirs_is_said_with_the_error_of_the_pairs(page: Page, records: dict[str, QualityRecord]) -> None:
    """The error by leaving out each window in turn, which knows nothing of the formula."""
    ours, theirs = (np.array(records[label].window_kld) for label in ("gguf", "llama.cpp-Q4_0"))
    without = [np.delete(ours, window).mean() / np.delete(theirs, window).mean() for window in range(len(ours))]
    jackknife = np.sqrt((len(ours) - 1) / len(ours) * ((np.array(without) - np.mean(without)) ** 2).sum())
    sentence = next(line for line in page.texts["lead"].splitlines() if "llama.cpp Q4_0" in line)
    assert sentence.strip().startswith("GGUF has ") and "the divergence of llama.cpp Q4_0, in" in sentence
    ratio, error, size = numbers(sentence.replace("Q4_0", ""))
    assert ratio == pytest.approx(ours.mean() / theirs.mean(), rel=0.02)
    assert error == pytest.approx(jackknife, rel=0.25)
    assert size == pytest.approx(12_345_678 / 12_400_000, abs=0.005)


def test_what_cannot_be_told_apart_is_not_called_better(page: Page) -> None:
    assert "GGUF's divergence cannot be told from that of llama.cpp Q4_K_M (" in page.texts["lead"]
    assert "ONNX has" not in page.texts["lead"]  # another engine's arithmetic is in its divergence


def test_the_page_says_what_each_of_their_files_really_holds(page: Page) -> None:
    words = page.texts["peers"]
    assert "with an importance matrix of calibration text" in words
    assert "llama.cpp Q4_0 holds 13 Q4_0, 1 Q8_0 and 1 Q4_1; llama.cpp Q4_K_M holds 13 Q4_0, 1" in words


def test_they_are_not_taken_for_what_was_made_here(page: Page) -> None:
    assert page.texts["headline"] == "40.0 MB of fp16 weights are now 12.3 MB as GGUF and 11.2 MB as ONNX."
    assert "llama.cpp Q4" not in page.texts["cards"]
    assert "llama.cpp Q4" not in page.texts["notes"]  # their speed is not missing
    assert "OUT/llama.cpp" not in page.texts["commands"]
    assert len(page.figure("windows")[0]) == 3


def test_without_calibration_and_without_files_that_is_said_or_nothing(out: Path, records: object) -> None:
    make_manifest(out, calibration_digest=None)
    assert "of the same student, without calibration text" in Page(write_report(out)).texts["peers"]
    (out / "llama.cpp" / "Q8_0.gguf").write_bytes(b"left by someone, and never measured")
    for path in (out / "measurements").glob("quality-llama.cpp-*"):
        path.unlink()
    found = Page(write_report(out))
    assert "peers" not in found.texts
    assert "llama.cpp Q4" not in found.visible

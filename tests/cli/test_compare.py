"""A run with ``compare``: llama.cpp's files beside ours, from the command to the page."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import edgepress
from one_core import one_core  # noqa: F401
from report_output import Page

pytestmark = pytest.mark.usefixtures("one_core")

RECIPE = """
calibration: {samples: 2, length: 16}
compress: [{step: quantize, solver: scale_search, format: q4_0, embedding: q8_0}]
export: [gguf]
evaluate: {files: [text.txt], tokens: 128, context: 32}
bench: {prompt: 8, generate: 2, repetitions: 1, threads: 1}
samples: null
baseline: false
compare: [Q4_0]
"""


def test_a_run_makes_measures_and_shows_them_and_they_can_be_evaluated_alone(place: Path) -> None:
    (place / "c.yaml").write_text(RECIPE, encoding="utf-8")
    (place / "made").mkdir()
    out = place / "made" / "here"
    planned = edgepress("run", "student", "-r", "c.yaml", "-o", out, "--dry-run")
    assert "llama.cpp's own  at most" in planned.out
    results = edgepress("run", "student", "-r", "c.yaml", "-o", out, "--json").json()
    row = results["models"]["llama.cpp-Q4_0"]
    file = Path(row["path"])
    assert file == out / "llama.cpp" / "Q4_0.gguf"
    assert row["file_bytes"] == file.stat().st_size
    assert "decode_tokens_per_s" in results["models"]["gguf"] and "decode_tokens_per_s" not in row

    page = Page(Path(results["report"]))
    assert "llama.cpp Q4_0" in [trace["text"][0] for trace in page.figure("size")[0]]
    assert page.row("quality-table", "llama.cpp Q4_0")[4] != "not measured"

    scored = ["--against", "student", "--text", "text.txt", "--tokens", "128", "--context", "32", "--json"]
    alone = edgepress("eval", file, *scored).json()
    assert alone["kld_mean"] == row["kld_mean"]

    again = edgepress("run", "student", "-r", "c.yaml", "-o", out)
    assert "llama.cpp: up to date" in again.err
    line = next(line for line in again.out.splitlines() if "llama.cpp-Q4_0" in line)
    assert f"{row['kld_mean']:.5f}" in line  # neither names nor numbers are cut

    (place / "c.yaml").write_text(RECIPE.replace("compare: [Q4_0]", ""), encoding="utf-8")
    without = edgepress("run", "student", "-r", "c.yaml", "-o", out, "--json").json()
    assert without["models"].keys() == {"gguf"}
    assert sorted(path.name for path in (out / "measurements").glob("quality-*")) == ["quality-gguf.json"]


@pytest.mark.parametrize(
    ("compare", "message"),
    [
        ("[Q4_0, Q4_9]", "c.yaml: 'Q4_9' at compare[1] is none of the choices: IQ3_M, "),
        ("[Q4_0]\nevaluate: null", "compare: the files are made to be measured, and evaluate is null"),
    ],
)
def test_a_comparison_that_cannot_be_is_one_line(compare: str, message: str, place: Path) -> None:
    recipe = RECIPE.replace("evaluate: {files: [text.txt], tokens: 128, context: 32}\n", "")
    (place / "c.yaml").write_text(recipe.replace("[Q4_0]", compare), encoding="utf-8")
    assert message in edgepress("run", "student", "-r", "c.yaml", "-o", "out").error()

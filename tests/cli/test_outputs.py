"""An output directory belongs to one command: every other refuses it in one line and leaves it as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import edgepress
from own_cache import own_cache  # noqa: F401
from tiny_models import make_model_dir

from edgepress.pipeline.owner import Command
from edgepress.pipeline.stages import Output

pytestmark = pytest.mark.usefixtures("own_cache")
TEXT = "Pack my box with five dozen jugs. The quick fox jumps over the lazy dog.\n"
# Each command, what it is to be told apart from its output, and the command that its outputs belong to.
LINES: dict[str, tuple[str, Command]] = {
    "compress": ("student --recipe r.yaml", "run"),
    "run": ("student --recipe r.yaml", "run"),
    "export": ("pressed --to gguf", "export"),
    "encoder": ("student --weights float", "encoder"),
    "distill": ("--teacher student --student student --text text.txt", "distill"),
    "gad": ("--student student --text answers.jsonl", "gad"),
    "classifier": ("--text labels.jsonl --student student", "classifier"),
}
NAMES: dict[Command, str] = {"run": "compress' or 'run' wrote", "export": "export' or 'edge-llm' wrote"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("outputs")
    make_model_dir("llama", root / "student")
    (root / "r.yaml").write_text("compress: [{step: quantize, format: f16, solver: nearest}]\nexport: [gguf]\n")
    (root / "text.txt").write_text(TEXT * 200)
    answer = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "The quick fox."}]
    (root / "answers.jsonl").write_text((json.dumps({"messages": answer}) + "\n") * 8)
    labels = ({"text": f"{TEXT} {n}", "label": "good" if n % 2 else "bad"} for n in range(32))
    (root / "labels.jsonl").write_text("".join(json.dumps(label) + "\n" for label in labels))
    done = edgepress("compress", root / "student", "--recipe", root / "r.yaml", "-o", root / "pressed")
    assert done.code == 0, done.err
    return root


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def told(place: Path, command: str, out: Path) -> list[str | Path]:
    words = (
        word if word.startswith("-") or not (place / word).exists() else place / word
        for word in LINES[command][0].split()
    )
    return [command, *words, "-o", out]


@pytest.mark.parametrize("command", list(LINES))
def test_what_a_killed_command_left_is_refused_by_the_others(place: Path, command: str, tmp_path: Path) -> None:
    for owner in {owner for _, owner in LINES.values()} - {LINES[command][1]}:
        out = tmp_path / owner
        with Output(out).claim(owner):
            (out / ".edgepress" / "training-0").mkdir()
        before = contents(out)
        message = edgepress(*told(place, command, out)).error()
        assert message.startswith(f"{out}: holds what 'edgepress {NAMES.get(owner, owner)}")
        assert contents(out) == before


@pytest.mark.parametrize("command", ["compress", "run", "encoder", "distill", "gad", "classifier"])
def test_a_model_that_is_read_is_not_written_over(place: Path, command: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Output(out).claim(LINES[command][1]):
        make_model_dir("llama", out / "model")
    words = [out / "model" if word == place / "student" else word for word in told(place, command, out)]
    message = edgepress(*words).error()
    assert message.startswith(f"{out}: holds {out / 'model'}, which is read; choose another directory")


def test_a_checkpoint_s_own_directory_takes_its_exports_and_another_one_s_does_not(place: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    done = edgepress("compress", place / "student", "--recipe", place / "r.yaml", "-o", other)
    assert done.code == 0, done.err
    assert "holds what 'edgepress compress' or 'run' wrote" in edgepress(*told(place, "export", other)).error()
    for artifact in (other, other / "checkpoint"):
        assert edgepress("export", artifact, "--to", "gguf", "-o", other).code == 0
    files = contents(other)
    assert "gguf/model.gguf" in files
    again = edgepress("compress", place / "student", "--recipe", place / "r.yaml", "-o", other)
    assert again.code == 0 and "checkpoint: up to date" in again.err
    assert contents(other) == files | {"manifest.json": contents(other)["manifest.json"]}

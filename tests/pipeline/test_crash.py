"""kill -9 at any moment, the same command again: in the end every file is the one of an undisturbed run."""

from __future__ import annotations

import hashlib
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import edgepress_process
from killed_runs import Outcome, Run, Runner
from one_core import one_core  # noqa: F401
from tiny_models import make_model_dir

pytestmark = pytest.mark.usefixtures("one_core")

RECIPE = """
calibration: {samples: 2, length: 16}
compress: [{step: quantize, solver: scale_search, format: q4_0, embedding: q8_0}]
export: [gguf, onnx]
evaluate: {tokens: 32, context: 16}
bench: null
samples: {prompts: ["Hello?"], tokens: 2}
compare: [Q4_0, Q5_0]
"""
MADE = ("checkpoint", "gguf", "onnx", "baseline", "llama.cpp")


class Scene:
    """A student and a recipe; each run has an output and a cache of its own below ``root``."""

    def __init__(self, root: Path, runner: Runner) -> None:
        self.root = root
        self.perform = runner.perform
        make_model_dir("llama", root / "student")
        (root / "r.yaml").write_text(RECIPE, encoding="utf-8")

    def command(self, name: str) -> tuple[str, ...]:
        return ("run", str(self.root / "student"), "-r", str(self.root / "r.yaml"), "-o", str(self.root / name / "out"))

    def run(self, name: str, kill_at: int | None = None) -> Run:
        home = self.root / name
        return Run(command=self.command(name), cache=str(home / "cache"), root=str(home), kill_at=kill_at)

    def files(self, name: str) -> dict[str, str]:
        """Hashes of everything that must not depend on how often the run was killed."""
        out = self.root / name / "out"
        paths = [path for part in MADE for path in (out / part).rglob("*") if path.is_file()]
        paths += [out / "manifest.json", *(out / "measurements" / name for name in ("samples.json", "tensors.json"))]
        return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    def leftovers(self, name: str) -> list[str]:
        """Working files and directories that nobody removed."""
        return [path.name for path in (self.root / name / "out").rglob("*") if path.name.endswith(".partial")]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Runner() as runner:
        yield Scene(tmp_path_factory.mktemp("crash"), runner)


@pytest.fixture(scope="module")
def undisturbed(scene: Scene) -> Outcome:
    outcome = scene.perform(scene.run("undisturbed"))[0]
    assert outcome.code == 0, outcome.err
    return outcome


def check(scene: Scene, name: str) -> None:
    assert scene.files(name) == scene.files("undisturbed")
    assert scene.leftovers(name) == []
    assert (scene.root / name / "out" / "report.html").is_file()


def test_the_undisturbed_run_leaves_everything(scene: Scene, undisturbed: Outcome) -> None:
    files = scene.files("undisturbed")
    assert {f"{part}/{name}" for part, name in (("gguf", "model.gguf"), ("onnx", "model.onnx.data"))} <= files.keys()
    assert {"manifest.json", "checkpoint/tensors.json", "baseline/model.gguf"} <= files.keys()
    assert scene.leftovers("undisturbed") == []


def test_killed_before_and_after_each_stage_takes_its_name(scene: Scene, undisturbed: Outcome) -> None:
    """The moments that decide: a directory is whole but unnamed; it has its name but no record; the record is there."""
    deciding = {*(f".{part}.partial" for part in MADE), ".manifest.json.partial"}
    moments = []
    for number, (event, path) in enumerate(undisturbed.changes, start=1):
        if event == "os.rename" and Path(path).name in deciding:
            moments += [number, number + 1]
    assert len(moments) == 2 * (len(MADE) + 1)
    runs = [scene.run(f"stage-{moment}", kill_at) for moment in moments for kill_at in (moment, None)]
    outcomes = scene.perform(*runs)
    assert [outcome.code for outcome in outcomes] == [-signal.SIGKILL, 0] * len(moments)
    for moment in moments:
        check(scene, f"stage-{moment}")


def test_killed_before_an_entry_of_the_cache_takes_its_name(scene: Scene, undisturbed: Outcome) -> None:
    changes = enumerate(undisturbed.changes, start=1)
    moments = [number for number, (event, path) in changes if event == "os.rename" and "/cache/" in path]
    assert len(moments) == 4  # two texts that the student wrote, two windows of reference logits
    for moment in moments:
        killed, ended = scene.perform(scene.run(f"cache-{moment}", moment), scene.run(f"cache-{moment}"))
        assert (killed.code, ended.code) == (-signal.SIGKILL, 0)
        check(scene, f"cache-{moment}")


def test_killed_again_and_again_at_any_change_of_the_disk(scene: Scene, undisturbed: Outcome) -> None:
    """One output directory, killed six times on the way, each time further on."""
    chance = random.Random(0)
    steps = [chance.randint(3, len(undisturbed.changes) // 5) for _ in range(6)]
    outcomes = scene.perform(*(scene.run("patient", step) for step in steps), scene.run("patient"))
    codes = [outcome.code for outcome in outcomes]
    assert codes[-1] == 0, outcomes[-1].err
    assert codes.count(-signal.SIGKILL) >= 5
    check(scene, "patient")


def test_a_process_that_starts_anew_goes_on_where_a_killed_one_was(scene: Scene, undisturbed: Outcome) -> None:
    halfway = next(number for number, (_, path) in enumerate(undisturbed.changes, start=1) if "/.onnx.partial/" in path)
    assert scene.perform(scene.run("anew", halfway))[0].code == -signal.SIGKILL
    assert {path.name for path in (scene.root / "anew" / "out").iterdir()} == {
        ".edgepress",
        ".onnx.partial",
        "checkpoint",
        "gguf",
    }
    done = edgepress_process(*scene.command("anew"), EDGEPRESS_CACHE=str(scene.root / "anew" / "cache"))
    assert done.code == 0, done.err
    assert "checkpoint: up to date" in done.err
    assert "gguf: up to date" in done.err
    check(scene, "anew")


def test_finished_means_finished(scene: Scene, undisturbed: Outcome) -> None:
    before = scene.files("undisturbed")
    again = scene.perform(scene.run("undisturbed"))[0]
    assert again.code == 0
    assert scene.files("undisturbed") == before
    renamed = {Path(path).name for event, path in again.changes if event == "os.rename"}
    assert renamed == {".manifest.json.partial", ".report.html.partial"}

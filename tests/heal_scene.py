"""A student, a text and recipes that prune and heal it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from killed_runs import Run, Runner
from tiny_models import CORPUS, make_model_dir

HEAD = (
    "calibration: {self: false, files: [text.txt], samples: 24, length: 32}\n"
    "export: [gguf]\nevaluate: null\nbench: null\nsamples: null\nbaseline: false\ncompress:\n"
)
PRUNE = "  - {step: prune_ffn, keep: 0.5, method: magnitude, repair: false}\n"
DISTILL = "  - {step: distill, tokens: 6000, length: 16, batch_tokens: 96, rate: 0.003%s}\n"
QUANTIZE = "  - {step: quantize, solver: nearest, format: f16, fallback: f16}\n"


class Scene:
    """A student, a text and recipes; runs have an output and a cache of their own below ``root``."""

    def __init__(self, root: Path, runner: Runner) -> None:
        self.root, self.perform = root, runner.perform
        make_model_dir("llama", root / "student", num_hidden_layers=3, intermediate_size=256)
        (root / "text.txt").write_text(CORPUS * 40, encoding="utf-8")

    def recipe(self, *steps: str) -> Path:
        text = (HEAD + "".join(steps)).replace("text.txt", str(self.root / "text.txt"))
        path = self.root / f"{hashlib.sha256(text.encode()).hexdigest()[:8]}.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    def run(self, name: str, recipe: Path, kill_at: int | None = None) -> Run:
        home = self.root / name
        command = ("compress", str(self.root / "student"), "-r", str(recipe), "-o", str(home / "out"))
        return Run(command, cache=str(home / "cache"), root=str(home), kill_at=kill_at)

    def files(self, name: str) -> dict[str, str]:
        out = self.root / name / "out"
        return {
            path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in out.rglob("*")
            if path.is_file() and path.name != "lock"
        }


@pytest.fixture(name="scene", scope="module")
def make_scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A student and a text, and what performs runs."""
    with Runner() as runner:
        yield Scene(tmp_path_factory.mktemp("heal"), runner)

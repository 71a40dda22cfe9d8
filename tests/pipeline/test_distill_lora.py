"""Adapters in ``edgepress distill`` and in a recipe: a plain model comes out, the same however often it was killed."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import edgepress
from killed_runs import Outcome, Run, Runner
from one_core import one_core  # noqa: F401
from own_cache import own_cache  # noqa: F401
from safetensors.numpy import load_file
from tiny_models import CORPUS, make_model_dir

from edgepress.compress.student.checkpoint import CheckpointStudent
from edgepress.compress.student.open import open_student
from edgepress.pipeline.plan import make_plan
from edgepress.recipe import parse_recipe

pytestmark = pytest.mark.usefixtures("one_core", "own_cache")
TRAIN = "tokens: 1200, length: 16, batch_tokens: 96, piece_tokens: 48, save_steps: 4, checks: 3, rate: 0.02"
RECIPE = """
calibration: {{self: false, files: [{text}], samples: 24, length: 32}}
export: []
evaluate: null
bench: null
samples: null
baseline: false
compress:
  - {{step: prune_ffn, keep: 0.5, method: magnitude, repair: false}}
  - {{step: distill, tokens: 6000, batch_tokens: 96, rate: 0.02{lora}}}
  - {{step: quantize, solver: nearest, format: q8_0, fallback: f16}}
"""


class Scene:
    """Two models and a text; each run has an output and a cache of its own below ``root``."""

    def __init__(self, root: Path, runner: Runner) -> None:
        self.root, self.perform = root, runner.perform
        make_model_dir("llama", root / "teacher", intermediate_size=256)
        make_model_dir("llama", root / "student", seed=1)
        (root / "text.txt").write_text(CORPUS * 40, encoding="utf-8")

    def settings(self, lora: str, more: str = "") -> Path:
        path = self.root / "settings.yaml"
        path.write_text(f"train: {{{TRAIN}, lora: {lora}{more}}}\n", encoding="utf-8")
        return path

    def command(self, out: Path) -> tuple[str, ...]:
        models = ("--teacher", str(self.root / "teacher"), "--student", str(self.root / "student"))
        settings = self.settings("{rank: 4, alpha: 8}")
        return ("distill", *models, "--text", str(self.root / "text.txt"), "--settings", str(settings), "-o", str(out))

    def recipe(self, lora: str) -> Path:
        path = self.root / "recipe.yaml"
        path.write_text(RECIPE.format(text=self.root / "text.txt", lora=lora), encoding="utf-8")
        return path

    def run(self, name: str, kill_at: int | None = None) -> Run:
        home = self.root / name
        return Run(self.command(home / "out"), cache=str(home / "cache"), root=str(home), kill_at=kill_at)

    def files(self, name: str) -> dict[str, str]:
        out = self.root / name / "out"
        made = ("config.json", "distillation.json", "manifest.json", "model.safetensors")
        return {file: hashlib.sha256((out / file).read_bytes()).hexdigest() for file in made}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Runner() as runner:
        yield Scene(tmp_path_factory.mktemp("lora"), runner)


@pytest.fixture(scope="module")
def undisturbed(scene: Scene) -> Outcome:
    outcome = scene.perform(scene.run("undisturbed"))[0]
    assert outcome.code == 0, outcome.err
    return outcome


def test_a_plain_model_comes_out_and_only_its_matrices_have_changed(scene: Scene, undisturbed: Outcome) -> None:
    before = open_student(str(scene.root / "student"))
    after = load_file(scene.root / "undisturbed" / "out" / "model.safetensors")
    assert set(after) == set(before.names)
    for name in before.names:
        matrix = name.startswith("model.layers.") and "norm" not in name
        assert np.array_equal(after[name], before.read(name)) is not matrix
    record = json.loads((scene.root / "undisturbed" / "out" / "distillation.json").read_text("utf-8"))
    checks = [check["held_out"] for check in record["checks"]]
    assert min(checks) < 0.95 * checks[0]
    assert "adapters of rank 4: " in undisturbed.err


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_a_killed_run_goes_on_to_the_same_files(scene: Scene, undisturbed: Outcome, share: float) -> None:
    name, kill_at = f"killed-{share}", round(share * len(undisturbed.changes))
    killed, ended = scene.perform(scene.run(name, kill_at), scene.run(name))
    assert killed.code == -signal.SIGKILL
    assert ended.code == 0, ended.err
    assert scene.files(name) == scene.files("undisturbed")


def test_a_recipe_heals_by_adapters_before_it_rounds(scene: Scene, tmp_path: Path) -> None:
    recipe = scene.recipe(", lora: {rank: 8}")
    done = edgepress("compress", scene.root / "teacher", "-r", recipe, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "out" / "distilled-2" / "distillation.json").read_text("utf-8"))
    checks = [check["held_out"] for check in record["checks"]]
    assert min(checks) < 0.8 * checks[0]
    pruned, healed, shipped = (
        CheckpointStudent(tmp_path / "out" / stage) for stage in ("pruned-1", "distilled-2", "checkpoint")
    )
    assert healed.names == pruned.names
    np.testing.assert_array_equal(healed.read("model.embed_tokens.weight"), pruned.read("model.embed_tokens.weight"))
    name = "model.layers.0.mlp.down_proj.weight"
    apart = [np.abs(stage.read(name) - shipped.read(name)).mean() for stage in (pruned, healed)]
    assert apart[1] < 0.2 * apart[0]


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ("{rank: 33}", "lora.rank: 33 is more than model.layers.0.self_attn.k_proj.weight of 32 × 64 has"),
        ("{rank: 0}", "Expected `int` >= 1 - at `$.train.lora.rank`"),
        ("{rank: 4, alpha: 0}", "Expected `float` > 0"),
        ("{ranks: 4}", "unknown field `ranks`"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    lora: str, message: str, scene: Scene, tmp_path: Path
) -> None:
    command = scene.command(tmp_path / "out")
    scene.settings(lora)
    assert message in edgepress(*command).error()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (", lora: {rank: 40}", "lora.rank: 40 is more than model.layers.0.self_attn.k_proj.weight"),
        (", lora: {rank: 0}", "Expected `int` >= 1"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_before_any_work(
    lora: str, message: str, scene: Scene, tmp_path: Path
) -> None:
    done = edgepress("compress", scene.root / "teacher", "-r", scene.recipe(lora), "-o", tmp_path / "out")
    assert message in done.error()
    assert not (tmp_path / "out").exists()


def test_without_peft_one_line_names_the_extra(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    message = edgepress(*scene.command(tmp_path / "out")).error()
    assert message == "peft is not installed; run: pip install 'edgepress[compress]'"


def test_adapters_are_stated_to_need_less_memory(scene: Scene) -> None:
    student = open_student(str(scene.root / "teacher"))
    dense, adapted = (
        make_plan(student, parse_recipe(scene.recipe(lora).read_text("utf-8"), "r"), ())
        for lora in ("", ", lora: {rank: 2}")
    )
    assert adapted.peak_memory_bytes <= dense.peak_memory_bytes

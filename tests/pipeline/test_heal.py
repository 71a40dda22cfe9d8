"""The distill step of a recipe: it heals what pruning left, in place of nothing, and a killed run goes on."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import edgepress
from heal_scene import DISTILL, PRUNE, QUANTIZE, Scene, make_scene  # noqa: F401
from killed_runs import Outcome
from one_core import one_core  # noqa: F401
from own_cache import own_cache  # noqa: F401
from tiny_models import CORPUS
from torch.nn.functional import kl_div

from edgepress.artifact.manifest import read_manifest
from edgepress.compress.calibrate.tokens import calibration_windows
from edgepress.compress.distill.config import DistillStep, Training
from edgepress.compress.distill.text import Text, split
from edgepress.compress.student.checkpoint import CheckpointStudent
from edgepress.compress.student.open import open_student
from edgepress.pipeline.distill import _texts as distillation_texts
from edgepress.pipeline.distill_job import Job, Settings
from edgepress.pipeline.heal import _texts as healing_texts
from edgepress.pipeline.memory import _healing_memory
from edgepress.pipeline.plan import make_plan
from edgepress.recipe import load_recipe, parse_recipe
from edgepress.runtime.text import TextCodec
from edgepress.runtime.torch_reference import load_model

pytestmark = pytest.mark.usefixtures("one_core", "own_cache")


@pytest.fixture(scope="module")
def healed(scene: Scene) -> Outcome:
    outcome = scene.perform(scene.run("healed", scene.recipe(PRUNE, DISTILL % "", QUANTIZE)))[0]
    assert outcome.code == 0, outcome.err
    return outcome


def divergence(scene: Scene, stage: str) -> float:
    """Of a stage from the student in float64, on the windows that are held out."""
    teacher = open_student(str(scene.root / "student"))
    recipe = load_recipe(str(scene.recipe(PRUNE, DISTILL % "", QUANTIZE)))
    windows = calibration_windows(teacher, recipe.calibration)
    held_out = split(Text(windows, np.ones(windows.shape, bool)), recipe.calibration.seed)[1]
    tokens, student = torch.from_numpy(held_out.tokens.astype(np.int64)), load_model(teacher)
    other = load_model(CheckpointStudent(scene.root / "healed" / "out" / stage))
    with torch.no_grad():
        p, q = (torch.log_softmax(model(tokens).logits[:, :-1].double(), -1) for model in (student, other))
    return float(kl_div(q, p, log_target=True, reduction="sum") / tokens[:, 1:].numel())


def test_the_step_heals_what_pruning_left(scene: Scene, healed: Outcome) -> None:
    out = scene.root / "healed" / "out"
    record = json.loads((out / "distilled-2" / "distillation.json").read_text("utf-8"))
    divergences = [check["held_out"] for check in record["checks"]]
    assert min(divergences) < 0.6 * divergences[0]
    assert divergence(scene, "pruned-1") == pytest.approx(divergences[0], rel=1e-4)
    assert divergence(scene, "distilled-2") == pytest.approx(min(divergences), rel=1e-4)
    before, after = (CheckpointStudent(out / stage).spec for stage in ("pruned-1", "distilled-2"))
    assert before == after


def embeddings(out: Path) -> list[np.ndarray]:
    """Of a run's two stages."""
    return [CheckpointStudent(out / stage).read("model.embed_tokens.weight") for stage in ("pruned-1", "distilled-2")]


def test_the_embedding_stays_the_students_unless_it_is_to_be_trained(scene: Scene, healed: Outcome) -> None:
    kept, same = embeddings(scene.root / "healed" / "out")
    np.testing.assert_array_equal(same, kept)
    recipe = scene.recipe(PRUNE, DISTILL % ", embedding: trained", QUANTIZE)
    assert scene.perform(scene.run("trained", recipe))[0].code == 0
    kept, other = embeddings(scene.root / "trained" / "out")
    assert (other != kept).any()


def test_an_embedding_with_fewer_channels_is_trained(scene: Scene) -> None:
    hidden = "  - {step: prune_hidden, keep: 0.75, multiple_of: 16}\n"
    outcome = scene.perform(scene.run("narrowed", scene.recipe(hidden, DISTILL % "", QUANTIZE)))[0]
    assert outcome.code == 0, outcome.err
    narrow, other = embeddings(scene.root / "narrowed" / "out")
    assert narrow.shape[1] < open_student(str(scene.root / "student")).spec.hidden
    assert (other != narrow).any()


def test_the_healed_model_is_what_ships(scene: Scene, healed: Outcome, tmp_path: Path) -> None:
    out = scene.root / "healed" / "out"
    stage, shipped = (load_model(CheckpointStudent(out / part)) for part in ("distilled-2", "checkpoint"))
    for one, two in zip(stage.parameters(), shipped.parameters(), strict=True):
        torch.testing.assert_close(one.half().float() if one.dim() > 1 else one, two)
    exported = edgepress("export", out, "--to", "gguf", "-o", tmp_path / "files")  # its parity gate runs the engine
    assert exported.code == 0, exported.err
    notes = read_manifest(out).lineage.student_notes
    assert any("healed: on " in note for note in notes)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.6, 0.7, 0.8, 0.95])
def test_a_killed_run_goes_on_to_the_same_files(scene: Scene, healed: Outcome, share: float) -> None:
    recipe = scene.recipe(PRUNE, DISTILL % "", QUANTIZE)
    name, kill_at = f"killed-{share}", round(share * len(healed.changes))
    killed, ended = scene.perform(scene.run(name, recipe, kill_at), scene.run(name, recipe))
    assert killed.code == -signal.SIGKILL
    assert ended.code == 0, ended.err
    assert scene.files(name) == scene.files("healed")


def test_training_resumes_behind_a_pruning_that_is_done(scene: Scene, healed: Outcome) -> None:
    recipe = scene.recipe(PRUNE, DISTILL % "", QUANTIZE)
    renames = [place for place, change in enumerate(healed.changes) if change[0] == "os.rename"]
    kill_at = next(place for place in renames if "step-00000050" in healed.changes[place][1]) + 2
    killed, ended = scene.perform(scene.run("resumed", recipe, kill_at), scene.run("resumed", recipe))
    assert killed.code == -signal.SIGKILL
    assert "pruned-1: up to date" in ended.err
    assert "training goes on after step 50" in ended.err


def test_another_step_replaces_the_stage_and_those_behind_it(scene: Scene, healed: Outcome) -> None:
    both = scene.recipe(PRUNE, DISTILL % "", QUANTIZE), scene.recipe(PRUNE, QUANTIZE)
    for recipe, stages in zip(both, ({"pruned-1", "distilled-2"}, {"pruned-1"}), strict=True):
        done = scene.perform(scene.run("changed", recipe))[0]
        assert done.code == 0, done.err
        out = scene.root / "changed" / "out"
        assert {path.name for path in out.iterdir() if "-" in path.name} == stages


def test_text_of_its_own_is_trained_on(scene: Scene) -> None:
    (scene.root / "own.jsonl").write_text(json.dumps({"text": CORPUS * 3}) + "\n", encoding="utf-8")
    step = DISTILL.replace("6000", "960") % f", files: [{scene.root / 'own.jsonl'}]"
    done = scene.perform(scene.run("own", scene.recipe(PRUNE, step, QUANTIZE)))[0]
    assert done.code == 0, done.err
    record = json.loads((scene.root / "own" / "out" / "distilled-2" / "distillation.json").read_text("utf-8"))
    assert record["step_tokens"] == 96
    assert record["training_tokens"] == 960


def test_training_states_more_memory(scene: Scene) -> None:
    student = open_student(str(scene.root / "student"))
    plans = [
        make_plan(student, parse_recipe(scene.recipe(*steps).read_text("utf-8"), "r"), ("gguf",))
        for steps in ((PRUNE, QUANTIZE), (PRUNE, (DISTILL % "").replace("96", "4096"), QUANTIZE))
    ]
    assert plans[1].peak_memory_bytes >= plans[0].peak_memory_bytes


def test_a_trained_embedding_states_its_gradients_moments_and_best_as_well(scene: Scene) -> None:
    student = open_student(str(scene.root / "student"))

    frozen, trained, auto = (
        DistillStep(tokens=64, embedding="frozen"),
        DistillStep(tokens=64, embedding="trained"),
        DistillStep(tokens=64),
    )
    stated = _healing_memory(student, frozen, narrowed=False)
    more = stated + 4 * 4 * student.spec.vocab * student.spec.hidden
    assert _healing_memory(student, trained, narrowed=False) == more
    assert _healing_memory(student, auto, narrowed=False) == stated
    assert _healing_memory(student, auto, narrowed=True) == more


@pytest.mark.parametrize("command", ["run", "distill"])
def test_less_than_the_text_is_read_from_all_files(command: str, scene: Scene) -> None:
    words = [CORPUS * 40, "0123456789 " * 4000]
    files = [scene.root / f"{number}.txt" for number in range(len(words))]
    for file, text in zip(files, words, strict=True):
        file.write_text(text, encoding="utf-8")
    student, names = open_student(str(scene.root / "student")), tuple(map(str, files))
    if command == "run":
        recipe = parse_recipe(scene.recipe(PRUNE, DISTILL % "", QUANTIZE).read_text("utf-8"), "r")
        step = DistillStep(tokens=640, length=32, batch_tokens=64, files=names)
        _, read, held_out = healing_texts(student, step, recipe, narrowed=False)
    else:
        training = Training(tokens=640, length=32, batch_tokens=64)
        read, held_out = distillation_texts(student, Job(text=names, settings=Settings(train=training)))
    assert read.tokens.shape == (20, 32)
    codec = TextCodec(student.tokenizer_dir)
    for part in (read, held_out):
        texts = [codec._tokenizer.decode(window.tolist()) for window in part.tokens]
        assert 1 < sum("345" in text.replace(" ", "") for text in texts) < len(texts) - 1

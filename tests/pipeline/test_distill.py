"""``edgepress distill``: a student that every command takes, the same however often the work was killed."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import Finished, edgepress
from killed_runs import Outcome, Run, Runner
from one_core import one_core  # noqa: F401
from own_cache import own_cache  # noqa: F401
from report_output import Page
from tiny_models import CORPUS, make_model_dir

from edgepress.compress.distill.held_out import HeldOut
from edgepress.compress.distill.text import read_windows, split
from edgepress.compress.student.open import open_student
from edgepress.runtime.text import TextCodec
from edgepress.runtime.torch_reference import load_model

pytestmark = pytest.mark.usefixtures("one_core", "own_cache")
SETTINGS = """
loss: {kl: 0.9, hard_labels: 0.1}
train: {tokens: 1200, length: 16, batch_tokens: 96, piece_tokens: 48, save_steps: 4, checks: 3, rate: 0.005}
"""
MADE = ("config.json", "distillation.json", "manifest.json", "model.safetensors", "tokenizer.json")


class Scene:
    """A teacher, text, sizes and settings; each run has an output and a cache of its own below ``root``."""

    def __init__(self, root: Path, runner: Runner) -> None:
        self.root = root
        self.perform = runner.perform
        make_model_dir("llama", root / "teacher", num_hidden_layers=3)
        (root / "text.txt").write_text(CORPUS * 12, encoding="utf-8")
        (root / "sizes.json").write_text('{"hidden_size": 32, "num_hidden_layers": 2}', encoding="utf-8")
        (root / "settings.yaml").write_text(SETTINGS, encoding="utf-8")

    def command(self, out: Path) -> tuple[str, ...]:
        names = {"teacher": "teacher", "start": "sizes.json", "text": "text.txt", "settings": "settings.yaml"}
        options = [part for name, file in names.items() for part in (f"--{name}", str(self.root / file))]
        return ("distill", *options, "-o", str(out))

    def run(self, name: str, kill_at: int | None = None) -> Run:
        home = self.root / name
        return Run(self.command(home / "out"), cache=str(home / "cache"), root=str(home), kill_at=kill_at)

    def files(self, name: str) -> dict[str, str]:
        out = self.root / name / "out"
        return {file: hashlib.sha256((out / file).read_bytes()).hexdigest() for file in MADE}

    def leftovers(self, name: str) -> list[str]:
        out = self.root / name / "out"
        return [str(path) for path in out.rglob("*") if ".partial" in path.name or "training" in path.name]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Runner() as runner:
        yield Scene(tmp_path_factory.mktemp("distill"), runner)


@pytest.fixture(scope="module")
def undisturbed(scene: Scene) -> Outcome:
    outcome = scene.perform(scene.run("undisturbed"))[0]
    assert outcome.code == 0, outcome.err
    return outcome


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.65, 0.8, 0.9, 0.95, 0.99])
def test_a_killed_run_goes_on_to_the_same_files(scene: Scene, undisturbed: Outcome, share: float) -> None:
    name, kill_at = f"killed-{share}", round(share * len(undisturbed.changes))
    killed, ended = scene.perform(scene.run(name, kill_at), scene.run(name))
    assert killed.code == -signal.SIGKILL
    assert ended.code == 0, ended.err
    assert scene.files(name) == scene.files("undisturbed")
    assert scene.leftovers(name) == []
    page = Page(scene.root / name / "out" / "report.html")
    assert "tokens/s" in page.texts["course"]


def test_a_run_that_is_killed_again_and_again_gets_there(scene: Scene, undisturbed: Outcome) -> None:
    runs = [scene.run("often", 24) for _ in range(12)]
    codes = [outcome.code for outcome in scene.perform(*runs, scene.run("often"))]
    assert codes.count(-signal.SIGKILL) >= 3
    assert codes[-1] == 0
    assert scene.files("often") == scene.files("undisturbed")


def test_the_page_draws_the_record(scene: Scene, undisturbed: Outcome) -> None:
    out = scene.root / "undisturbed" / "out"
    record = json.loads((out / "distillation.json").read_text("utf-8"))
    page = Page(out / "report.html")
    dots, _ = page.figure("loss")[0]
    assert dots["y"] == record["losses"]
    assert page.figure("held-out")[0][0]["y"] == [check["held_out"] for check in record["checks"]]
    assert page.row("sizes-table", "teacher: teacher")[1] == f"{record['teacher']['parameters']:,}"
    speed = json.loads((out / "measurements" / "speed.json").read_text("utf-8"))
    assert speed["tokens"] == record["training_tokens"]
    assert speed["tokens_per_s"] == pytest.approx(speed["tokens"] / speed["seconds"])


def test_training_resumes_and_does_not_start_anew(scene: Scene, undisturbed: Outcome) -> None:
    renames = [place for place, change in enumerate(undisturbed.changes) if change[0] == "os.rename"]
    kill_at = next(place for place in renames if "step-00000008" in undisturbed.changes[place][1]) + 2
    killed, ended = scene.perform(scene.run("resumed", kill_at), scene.run("resumed"))
    assert killed.code == -signal.SIGKILL
    assert "training goes on after step 8" in ended.err


def test_a_finished_student_is_not_made_again(scene: Scene, undisturbed: Outcome) -> None:
    again = scene.perform(scene.run("undisturbed"))[0]
    assert "student: up to date" in again.err
    assert not [path for _, path in again.changes if path.endswith(".safetensors")]


def test_the_record_tells_what_the_files_hold(scene: Scene, undisturbed: Outcome) -> None:
    out = scene.root / "undisturbed" / "out"
    record = json.loads((out / "distillation.json").read_text("utf-8"))
    teacher = open_student(str(scene.root / "teacher"))
    held_out = split(read_windows(TextCodec(teacher.tokenizer_dir), (str(scene.root / "text.txt"),), 16), 0)[1]
    found = HeldOut(teacher, held_out).divergence(load_model(open_student(str(out))))
    divergences = [check["held_out"] for check in record["checks"]]
    assert found == pytest.approx(min(divergences), rel=1e-6)
    assert min(divergences) < divergences[0]
    assert len(record["losses"]) == 12
    assert record["training_tokens"] == 12 * 96


def test_the_student_is_one_that_transformers_and_edgepress_take(
    scene: Scene, undisturbed: Outcome, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    out = scene.root / "undisturbed" / "out"
    tokens = torch.arange(5, 25)[None]
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(out)(tokens).logits
        ours = load_model(open_student(str(out)))(tokens).logits
    torch.testing.assert_close(ours, theirs)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "calibration: {samples: 2, length: 16}\ncompress: [{step: quantize, solver: nearest, format: q8_0}]\n"
        "export: [gguf, onnx]\nevaluate: null\nbench: null\nsamples: null\nbaseline: false\n",
        encoding="utf-8",
    )
    done = edgepress("run", out, "-r", recipe, "-o", tmp_path / "run")
    assert done.code == 0, done.err
    assert (tmp_path / "run" / "gguf" / "model.gguf").is_file()


def test_a_student_is_healed_towards_its_teacher(scene: Scene, tmp_path: Path) -> None:
    make_model_dir("llama", tmp_path / "other", seed=3)
    options = ("--text", scene.root / "text.txt", "--settings", scene.root / "settings.yaml", "--tokens", "960")
    done = edgepress(
        "distill", "--teacher", scene.root / "teacher", "--student", tmp_path / "other", *options, "-o",
        tmp_path / "out", "--json",
    )  # fmt: skip
    checks = [check["held_out"] for check in done.json()["checks"]]
    assert min(checks) < checks[0]
    assert done.json()["training_tokens"] == 960


def other_vocabulary(root: Path) -> None:
    file = root / "student" / "tokenizer.json"
    document = json.loads(file.read_text("utf-8"))
    vocabulary = document["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(document), encoding="utf-8")


def sizes(content: str) -> Callable[[Path], object]:
    return lambda root: (root / "sizes.json").write_text(content, encoding="utf-8")


def settings(content: str) -> Callable[[Path], object]:
    return lambda root: (root / "settings.yaml").write_text(content, encoding="utf-8")


@pytest.mark.parametrize("read", ["teacher", "student"])
def test_a_model_that_is_read_is_not_written_over(read: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("teacher", "student"):
        make_model_dir("llama", tmp_path / name)
        (tmp_path / name / ".edgepress").mkdir()  # as in a student that edgepress has written
    (tmp_path / "text.txt").write_text(CORPUS * 12, encoding="utf-8")
    models = ("--teacher", "teacher", "--student", "student")
    done = edgepress("distill", *models, "--text", "text.txt", "-o", read)
    assert f"{read}: holds {read}, which is read" in done.error()


STUDENT = ("--student", "student")
START = ("--start", "sizes.json")


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ((), None, "give --student, a model to train, or --start"),
        ((*STUDENT, *START), None, "give --student, a model to train, or --start"),
        (STUDENT, other_vocabulary, "tokenizers of student and teacher differ: 'a' is token"),
        (STUDENT, lambda root: make_model_dir("llama", root / "student", vocab_size=400), "vocabulary of 400 tokens"),
        ((*START, "--settings", "small"), None, "or settings with a start: one of the three"),
        (("--settings", "smal"), None, "no settings 'smal'; shipped settings: black_box, small"),
        (START, sizes("{"), "sizes.json: wanted a JSON object"),
        (START, sizes("{}"), "start: the sizes are the teacher's own"),
        (START, sizes('{"hidden_size": 1024}'), "hidden_size 1024 is more than"),
        (START, sizes('{"hidden_size": 50}'), "hidden size (50) is not a multiple of the number of attention heads"),
        ((*START, "--select", "best"), None, "--select 'best': unknown; known: importance, uniform, random"),
        (START, settings("loss: {kll: 1}"), "unknown field `kll`"),
        (START, settings("loss: {kl: -1}"), "settings.yaml: Expected `float` >= 0"),
        (START, settings("loss: {kl: .inf}"), "settings.yaml: Expected `float` <= 1000000000000.0"),
        (START, settings("train: {rate: .inf}"), "settings.yaml: Expected `float` <= 1000000000000.0"),
        ((*STUDENT, "--select", "uniform"), None, "--select uniform: says what a start takes of the teacher"),
        ((*START, "--seed", "18446744073709551616"), None, None),
        (START, settings("loss: {jsd: 1}"), "set top_k: 0"),
        (START, settings("train: {length: 4096}"), "length: 4096 tokens; teacher takes 256"),
        (START, lambda root: (root / "text.txt").write_text("Short."), "give more text or a smaller length"),
        ((*START, "--held-out", "text.txt"), None, "the text to train on and the held-out text share"),
        ((*START, "--text", "none.txt"), None, "none.txt: no such file"),
        ((*START, "--tokens", "0"), None, None),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_and_nothing_is_written(
    options: tuple[str, ...],
    change: Callable[[Path], object] | None,
    message: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    make_model_dir("llama", tmp_path / "teacher")
    make_model_dir("llama", tmp_path / "student")
    (tmp_path / "text.txt").write_text(CORPUS * 12, encoding="utf-8")
    sizes('{"hidden_size": 32}')(tmp_path)
    settings(SETTINGS)(tmp_path)
    if change:
        change(tmp_path)
    done: Finished = edgepress(
        "distill", "--teacher", "teacher", "--text", "text.txt", "--settings", "settings.yaml", *options, "-o", "out"
    )
    assert done.code == 2
    if message is not None:
        assert message in done.error()
    assert not (tmp_path / "out").exists()

"""Training on a teacher's words alone: the judge is a cross-entropy and says so; what needs a teacher is refused."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import Finished, edgepress
from killed_runs import Outcome, Run, Runner
from one_core import one_core  # noqa: F401
from own_cache import own_cache  # noqa: F401
from report_output import Page
from tiny_models import make_model_dir

from edgepress.artifact.manifest import read_manifest
from edgepress.compress.distill.held_out import HeldOutWords
from edgepress.compress.distill.text import read_windows, split
from edgepress.compress.student.open import open_student
from edgepress.runtime.answering import LocalAnswerer, Sampling
from edgepress.runtime.text import TextCodec
from edgepress.runtime.torch_reference import TorchSession, load_model

pytestmark = pytest.mark.usefixtures("one_core", "own_cache")
SAID = {
    "Who jumps?": "The quick brown fox.",
    "What is packed?": "The box, with five dozen jugs.",
    "When was it?": "In 1984.",
    "And the area?": "3.14159 times the square.",
}
SETTINGS = (
    "loss: {kl: 0, hard_labels: 1}\n"
    "train: {length: 64, batch_tokens: 512, tokens: 50_000, rate: 0.003, checks: 4, save_steps: 20}\n"
)
MADE = ("config.json", "distillation.json", "manifest.json", "model.safetensors", "tokenizer.json")


def write_answers(path: Path, count: int) -> None:
    """A teacher that says one thing to each question: of its distribution nothing is left to chance."""
    chance = np.random.default_rng(0)
    lines = []
    for number in chance.integers(len(SAID), size=count):
        asked, said = list(SAID.items())[number]
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        lines.append(json.dumps({"messages": turns}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


class Scene:
    """A student and answers; each run has an output and a cache of its own below ``root``."""

    def __init__(self, root: Path, runner: Runner) -> None:
        self.root, self.perform = root, runner.perform
        make_model_dir("llama", root / "student")
        write_answers(root / "answers.jsonl", 240)
        (root / "settings.yaml").write_text(SETTINGS, encoding="utf-8")

    def run(self, name: str, kill_at: int | None = None) -> Run:
        home, given = self.root / name, {"student": "student", "text": "answers.jsonl", "settings": "settings.yaml"}
        options = [part for option, file in given.items() for part in (f"--{option}", str(self.root / file))]
        command = ("distill", *options, "-o", str(home / "out"))
        return Run(command, cache=str(home / "cache"), root=str(home), kill_at=kill_at)

    def files(self, name: str) -> dict[str, str]:
        out = self.root / name / "out"
        return {file: hashlib.sha256((out / file).read_bytes()).hexdigest() for file in MADE}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Runner() as runner:
        yield Scene(tmp_path_factory.mktemp("black"), runner)


@pytest.fixture(scope="module")
def undisturbed(scene: Scene) -> Outcome:
    outcome = scene.perform(scene.run("undisturbed"))[0]
    assert outcome.code == 0, outcome.err
    return outcome


@pytest.fixture
def out(scene: Scene, undisturbed: Outcome) -> Path:
    return scene.root / "undisturbed" / "out"


def test_a_student_learns_to_say_what_the_teacher_says(out: Path) -> None:
    """The teacher's entropy is 0, but where a window begins within an answer, whose question is not in it."""
    record = json.loads((out / "distillation.json").read_text("utf-8"))
    judged = [check["held_out"] for check in record["checks"]]
    assert judged[0] > 3
    assert min(judged) < 0.1
    student = open_student(str(out))
    with TorchSession(student, threads=1) as session:
        model = LocalAnswerer(session, TextCodec(out))
        for asked, said in SAID.items():
            answer = model.answer([{"role": "user", "content": asked}], Sampling(tokens=60), None)
            assert (answer.text, answer.finish) == (said, "stop")


def test_the_record_is_of_what_the_files_hold_and_says_how_it_is_judged(scene: Scene, out: Path) -> None:
    record = json.loads((out / "distillation.json").read_text("utf-8"))
    assert (record["judge"], record["teacher"]) == ("cross_entropy", None)
    held_out = split(read_windows(TextCodec(out), (str(scene.root / "answers.jsonl"),), 64), 0)[1]
    found = HeldOutWords(held_out).cross_entropy(load_model(open_student(str(out))))
    assert found == pytest.approx(min(check["held_out"] for check in record["checks"]), rel=1e-6)


def test_no_page_and_no_message_calls_it_a_divergence(out: Path, undisturbed: Outcome) -> None:
    page = Page(out / "report.html")
    assert "held-out cross-entropy, nats per token" in str(page.figure("held-out")[1])
    assert "Mean cross-entropy with the text's own tokens" in page.visible
    assert "its cross-entropy is" in page.texts["headline"]
    assert "without a teacher" in page.texts["origin"]
    assert "--teacher" not in page.texts["commands"]
    for words in (page.visible, undisturbed.err):
        assert "diverge" not in words
        assert "KLD" not in words
    assert "held-out cross-entropy" in undisturbed.err


def test_the_manifest_names_the_model_that_was_trained(scene: Scene, out: Path) -> None:
    lineage = read_manifest(out).lineage
    student = open_student(str(scene.root / "student"))
    assert (lineage.student, lineage.student_digest) == (student.name, student.digest())
    assert lineage.recipe["student"] == student.source


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_killed_run_goes_on_to_the_same_files(scene: Scene, undisturbed: Outcome, share: float) -> None:
    name, kill_at = f"killed-{share}", round(share * len(undisturbed.changes))
    killed, ended = scene.perform(scene.run(name, kill_at), scene.run(name))
    assert (killed.code, ended.code) == (-signal.SIGKILL, 0), ended.err
    assert scene.files(name) == scene.files("undisturbed")


def test_the_command_says_which_judge_it_was(scene: Scene, tmp_path: Path) -> None:
    options = ("--student", scene.root / "student", "--text", scene.root / "answers.jsonl", "--tokens", "4096")
    done = edgepress("distill", *options, "--settings", "black_box", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert "held-out cross-entropy:" in done.out
    again = edgepress("distill", *options, "--settings", "black_box", "-o", tmp_path / "out", "--json").json()
    assert again["judge"] == "cross_entropy"


def settings(content: str) -> Callable[[Path], object]:
    return lambda root: (root / "settings.yaml").write_text(content, encoding="utf-8")


STUDENT = ("--student", "student")


@pytest.mark.parametrize(
    ("options", "content", "message"),
    [
        (STUDENT, "", "loss: kl needs a teacher, and none is given"),
        (STUDENT, "loss: {kl: 0, jsd: 1, hidden: 1, hard_labels: 1}", "loss: jsd, hidden needs a teacher"),
        (STUDENT, "loss: {kl: 0}", "without a teacher, give hard_labels a weight"),
        (STUDENT, "loss: {kl: 0, hard_labels: 1}\ntrain: {on_policy: 0.5}", "train.on_policy: only a teacher can say"),
        (
            ("--start", "sizes.json"),
            "loss: {kl: 0, hard_labels: 1}",
            "a start is slices of the teacher, and no teacher",
        ),
        ((), "start: {width: 0.5}\nloss: {kl: 0, hard_labels: 1}", "a start is slices of the teacher, and no teacher"),
        ((), "loss: {kl: 0, hard_labels: 1}", "give --student, a model to train"),
        (STUDENT, "loss: {kl: 0, hard_labels: 1}\ntrain: {length: 512}", "512 tokens; student takes 256"),
    ],
)
def test_what_needs_a_teacher_is_refused_without_one(
    options: tuple[str, ...], content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_model_dir("llama", tmp_path / "student")
    write_answers(tmp_path / "answers.jsonl", 40)
    (tmp_path / "settings.yaml").write_text(content, encoding="utf-8")
    (tmp_path / "sizes.json").write_text('{"hidden_size": 32}', encoding="utf-8")
    done: Finished = edgepress(
        "distill", "--text", "answers.jsonl", "--settings", "settings.yaml", *options, "-o", "out"
    )
    assert message in done.error()
    assert not (tmp_path / "out").exists()
